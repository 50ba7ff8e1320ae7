"""`qflare model bench`: what a model costs, measured here and estimated for boards.

Each figure says how it was got: measured on this machine, computed (exact, by the real code), or
estimated from what was measured and a board's profile.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_runtime.models import text
from edge_runtime.models.child import Limits, Outcome, run_child
from edge_runtime.models.costs import Wire, updates
from edge_runtime.models.graph import read_graph
from edge_runtime.models.inspection import read_manifest
from qflare.faults import LocalFault
from qflare.host.boards import Board, estimated
from qflare.host.boards.profile import Cost
from qflare.host.model import Manifest

MEASURED, COMPUTED, ESTIMATED = "measured here", "computed", "estimated"
_RANGE: Final = 2.0  # an estimate is good to this factor, either way
_BUSY: Final = 1.4  # a median that is so many times the best says that others computed meanwhile
_CODEC: Final = "q8z"  # whose time to seal is counted in a round


@dataclass(frozen=True, slots=True)
class Load:
    """What a device does in a round."""

    examples: int
    epochs: int
    validation: int


def bench(
    path: Path, view: memoryview, limits: Limits, load: Load, repeat: int, budget: float
) -> dict[str, Any]:
    """All figures as plain values. LocalFault if the model can't be run."""
    graph = read_graph(view)
    manifest = read_manifest(graph, view)
    trains = isinstance(manifest, Manifest)
    outcomes: dict[int, Outcome] = {}
    for threads in (1, 2):
        order = {
            "threads": threads,
            "repeat": repeat,
            "budget": budget,
            "trains": trains,
            "started": time.monotonic(),
        }
        outcomes[threads] = run_child("bench", path, order, limits)
        _verify(path, outcomes[threads])
    measured = {str(threads): _figures(outcome) for threads, outcome in outcomes.items()}
    speed = outcomes[1].results["speed"]["speed"]
    report: dict[str, Any] = {
        "file": str(path),
        "trains": trains,
        "how": {"measured": MEASURED, "computed": COMPUTED, "estimated": ESTIMATED},
        "measured": measured,
        "busy": any(
            figures["median"] > _BUSY * figures["best"]
            for outcome in outcomes.values()
            for figures in outcome.results.values()
            if "median" in figures
        ),
        "machine": {"speed": speed, "how": MEASURED, "unit": "one reference core"},
    }
    if isinstance(manifest, Manifest):
        wires = updates(manifest.size, manifest.rows)
        report["round"] = _round(manifest, load, measured["1"], wires)
        report["bytes"] = _bytes(manifest, wires, len(view))
        report["boards"] = [
            _board(board, cost, report["round"], measured["1"], speed)
            for board, cost in estimated()
        ]
    return report


def _verify(path: Path, outcome: Outcome) -> None:
    troubles = [f"{outcome.step}: {outcome.fault}"] if outcome.fault else []
    troubles += [
        f"{step}: {text.short(result['what'], 200)}"
        for step, result in outcome.results.items()
        if "trouble" in result
    ]
    if troubles:
        raise LocalFault(f"{path}: {troubles[0]}; see what is wrong: qflare model check {path}")


def _figures(outcome: Outcome) -> dict[str, Any]:
    return {step: result for step, result in outcome.results.items() if step != "speed"}


def _round(
    manifest: Manifest, load: Load, measured: dict[str, Any], wires: tuple[Wire, ...]
) -> dict[str, Any]:
    """Seconds of a round on this machine, one thread: from measured calls, and how many of each."""
    batches = -(-load.examples // manifest.batch)
    tests = -(-load.validation // manifest.batch)
    parts = {
        "training": load.epochs * batches * measured["train"]["median"],
        "validation": 2 * tests * measured["evaluate"]["median"],
        "sealing": next(wire.seconds for wire in wires if wire.codec == _CODEC),
    }
    once = (batches + tests) * measured["features"]["median"] if manifest.features else 0.0
    return {
        "examples": load.examples,
        "epochs": load.epochs,
        "validation": load.validation,
        "steps": load.epochs * batches,
        "seconds": {**parts, "total": sum(parts.values())},
        "features_once": once,
        "how": f"{COMPUTED} from calls {MEASURED}, without reading the data and waiting",
    }


def _bytes(manifest: Manifest, wires: tuple[Wire, ...], file: int) -> dict[str, Any]:
    return {
        "up": [
            {
                "codec": wire.codec,
                "encoded": wire.encoded,
                "sealed": wire.sealed,
                "how": COMPUTED if wire.exact else ESTIMATED,
            }
            for wire in wires
        ],
        "down": {"weights": 4 * manifest.size, "model_once": file, "how": COMPUTED},
    }


def _board(
    board: Board, cost: Cost, round_: dict[str, Any], measured: dict[str, Any], speed: float
) -> dict[str, Any]:
    seconds = round_["seconds"]["total"] * speed / cost.speed
    return {
        "board": board.name,
        "title": board.title,
        "cores": board.processor.cores,
        "memory": board.memory_bytes,
        "seconds": seconds,
        "low": seconds / _RANGE,
        "high": seconds * _RANGE,
        "step": measured["train"]["median"] * speed / cost.speed,
        "features_once": round_["features_once"] * speed / cost.speed,
        "resident": measured["memory"]["resident"],
        "fits": measured["memory"]["peak"] <= board.memory_for_training,
        "how": ESTIMATED,
        "source": cost.source,
        "assumption": cost.assumption,
    }


def describe(report: dict[str, Any], sources: bool = False) -> list[str]:
    """The report as lines for people."""
    lines = [report["file"], "", f"{MEASURED} (median, 90th percentile)"]
    lines += _measured_lines(report["measured"])
    first = report["measured"]["1"]
    if "seconds" in first["start"]:
        began = text.duration(first["start"]["seconds"])
        lines.append(f"  from starting a process to its first step: {began}")
    memory, grew = first["memory"], first["start"].get("grew", 0)
    lines += text.words(
        f"memory of the process: {text.size(memory['resident'])} resident, of which "
        f"{text.size(memory['anonymous'])} are its own and the rest mapped files"
        + (f"; {text.size(grew)} came with the first step" if grew > 0 else "")
    )
    if report["busy"]:
        lines += text.words("The machine was busy with other work: these times are too long.")
    if not report["trains"]:
        return [
            *lines,
            "",
            *text.words("It has no manifest of QFLARE, so a round can't be told.", 0),
            *text.words("Make a model that trains from the Keras model: qflare model build", 0),
        ]
    return [
        *lines,
        "",
        *_round_lines(report),
        "",
        *_byte_lines(report),
        "",
        *_board_lines(report, sources),
    ]


def _measured_lines(measured: dict[str, Any]) -> list[str]:
    names = {
        "train": "training step",
        "evaluate": "evaluate a batch",
        "infer": "infer a batch",
        "features": "features of a batch",
        "load": "set weights and reset",
    }
    rows: list[tuple[str, ...]] = [("", "1 thread", "", "2 threads", "")]
    for step, figures in measured["1"].items():
        if "median" in figures:
            row = [names.get(step, step)]
            for threads in ("1", "2"):
                row += [text.duration(measured[threads][step][f]) for f in ("median", "p90")]
            rows.append(tuple(row))
    return text.table(rows, right=(1, 2, 3, 4))


def _round_lines(report: dict[str, Any]) -> list[str]:
    round_ = report["round"]
    seconds = round_["seconds"]
    lines = text.words(
        f"a round of {round_['epochs']} epochs over {round_['examples']:,} examples, "
        f"{round_['validation']:,} for validation: {round_['steps']:,} steps",
        0,
    )
    rows = [
        (f"{part} on this machine", text.duration(seconds[part]))
        for part in ("training", "validation", "sealing", "total")
    ]
    lines += text.table(rows, right=(1,))
    if round_["features_once"]:
        lines += text.words(
            f"and once for each model, features: {text.duration(round_['features_once'])}"
        )
    return lines


def _byte_lines(report: dict[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [("up, by codec", "compressed", "sealed and signed", "")]
    for up in report["bytes"]["up"]:
        rows.append((up["codec"], f"{up['encoded']:,}", f"{up['sealed']:,}", up["how"]))
    down = report["bytes"]["down"]
    lines = ["bytes of a round, without MQTT's own", *text.table(rows, right=(1, 2))]
    lines += text.words(
        f"down: {down['weights']:,} of weights, and the model file of {down['model_once']:,} once "
        f"({down['how']})"
    )
    return lines


def _board_lines(report: dict[str, Any], sources: bool) -> list[str]:
    rows: list[tuple[str, ...]] = [("board", "step", "round", "between", "memory")]
    for board in report["boards"]:
        span = f"{text.duration(board['low'])} … {text.duration(board['high'])}"
        fits = "enough" if board["fits"] else "too little"
        rows.append(
            (
                board["title"],
                text.duration(board["step"]),
                text.duration(board["seconds"]),
                span,
                f"{board['memory'] >> 20:,} MiB: {fits}",
            )
        )
    lines = [f"{ESTIMATED} for boards, one thread", *text.table(rows, right=(1, 2, 3))]
    lines += text.words(
        f"From this machine's speed, {report['machine']['speed']:.2f} of the reference core, and "
        "each board's profile. Nothing was measured on a board: expect a factor of "
        f"{_RANGE:g} either way."
    )
    if sources:
        for board in report["boards"]:
            lines += text.words(f"{board['title']}: {board['assumption']}", 2, 2)
        lines += text.words(f"Sources: {report['boards'][0]['source']}", 2, 2)
    elif report["boards"]:
        lines.append("  --sources says what the profiles rest on.")
    return lines

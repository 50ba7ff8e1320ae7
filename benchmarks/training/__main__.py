"""Time training on the device beside TensorFlow, PyTorch and numpy.

The same initial weights and batches of 32 everywhere, momentum 0.9, one process for each framework
and variant, in turns. A step is: a batch in, the loss out as a number. TensorFlow and PyTorch hold
their batches as tensors already; QFLARE is given numpy arrays, as on a device.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.aggregation.__main__ import machine
from benchmarks.training import check, race, report, targets
from benchmarks.training.models import MODELS
from qflare.faults import LocalFault
from qflare.host.model.file import read_model_file

RESULTS: Final = race.ROOT / "benchmarks" / "results"
DEVICE_STEPS: Final = 200
HINT: Final = "pip install 'qflare[authoring]' torch"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--starts", type=int, default=5, help="fresh processes to take the median")
    parser.add_argument("--python-tensorflow", default=sys.executable, help="one that has it")
    parser.add_argument("--python-torch", default=sys.executable, help="one that has it")
    parser.add_argument("--files", type=Path, help="take NAME.tflite from here, build none")
    parser.add_argument("--zoo", action="store_true", help="only the zoo: memory, start, file")
    parser.add_argument("--check-only", nargs="*", type=Path, metavar="FILE")
    parser.add_argument(
        "--recorded",
        type=Path,
        default=RESULTS / "training.json",
        help="for --check-only: the JSON of another machine's run",
    )
    parser.add_argument("--json", type=Path, help="write everything here as well")
    return parser.parse_args()


def model_files(args: argparse.Namespace) -> dict[str, Path]:
    """Where the model files are, built now unless they are given."""
    if args.files:
        found = {name: args.files / f"{name}.tflite" for name in args.models}
        return {name: path for name, path in found.items() if path.exists()}
    folder = RESULTS / "models"
    print("building the model files", file=sys.stderr)
    made = race.child(args.python_tensorflow, "qflare_models", folder, *args.models)
    return {name: Path(path) for name, path in made.items()}


def on_device(name: str, path: Path, starts: int) -> dict[str, Any]:
    """Memory, start and size of one model file."""
    model = read_model_file(path)
    seconds = race.start_to_first_step(sys.executable, "device", "--file", path, times=starts)
    memory = race.child(sys.executable, "device", "--file", path, "--steps", DEVICE_STEPS)
    parameters = model.manifest.size + model.manifest.personal_size + model.manifest.frozen
    size = targets.file_size(len(model.tflite), parameters)
    verdicts = (targets.memory(memory["resident"]), targets.start(seconds), size)
    return {
        "name": name,
        "parameters": parameters,
        "bytes": len(model.tflite),
        "bytes_limit": round(size.limit),
        "memory": memory,
        "start_s": statistics.median(seconds),
        "all_start_s": seconds,
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }


def timed(
    name: str, threads: int, turns: int, ways: Sequence[race.Way]
) -> tuple[dict[str, Any], dict[race.Way, str]]:
    """One model with one number of threads, printed at once."""
    results, failed = race.race(ways, name, threads, turns)
    step = targets.step(results)
    verdicts = [*([step] if step else []), *targets.agreement(results)]
    print(report.step_table(MODELS[name].title, threads, results))
    print(report.verdict_lines([v for v in verdicts if v is step or not v.ok]), flush=True)
    sides = dict.fromkeys(result.way.side for result in results)
    best = {side: targets.fastest(results, side) for side in sides}
    cell = {
        "model": name,
        "threads": threads,
        "load_1min": os.getloadavg()[0],
        "fastest": {side: result.median for side, result in best.items() if result},
        "minimum": {
            side: min(min(r.times) for r in results if r.way.side == side) for side in sides
        },
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "ways": [
            {
                "side": result.way.side,
                "variant": result.way.variant,
                "median_us": result.median,
                "min_us": min(result.times),
                "p90_us": result.p90,
                "turn_medians_us": result.medians,
                "steps": len(result.times),
                "memory": result.memory,
                "losses": result.losses,
            }
            for result in results
        ],
    }
    return cell, failed


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole comparison."""
    pythons = race.default_pythons(args.python_tensorflow, args.python_torch)
    said, missing = race.ask_versions(pythons)
    for side, why in missing.items():
        print(f"left out: {side} ({why}); {HINT}", file=sys.stderr)
    try:
        files = model_files(args)
    except race.Failed as fault:
        print(f"left out: QFLARE's models, which can't be built: {fault}", file=sys.stderr)
        files = {}
    host = machine()
    print(" · ".join(f"{key} {value}" for key, value in host.items()))
    print(" · ".join(what["version"] for what in said.values()))
    cells, left_out = [], dict(missing)
    for name in args.models:
        for threads in args.threads:
            ways = []
            for side, what in said.items():
                file = files.get(name) if side == "qflare" else None
                if side == "qflare" and file is None:
                    continue
                ways += [
                    race.Way(side, variant, pythons[side], file)
                    for variant in what["variants"][name]
                ]
            cell, failed = timed(name, threads, args.turns, ways)
            cells.append(cell)
            for way, why in failed.items():
                print(f"  left out: {way.title}: {why}", flush=True)
                left_out[f"{name}, {threads}, {way.title}"] = why
    print(report.summary(cells))
    rows = []
    for name, path in files.items():
        row = on_device(name, path, args.starts)
        row["others_start_s"] = {
            side: statistics.median(
                race.start_to_first_step(
                    *(pythons[side], "first_step", "--side", side, "--model", name),
                    times=1,  # they take seconds, and one is seen for each model
                )
            )
            for side in targets.OTHERS
            if side in said
        }
        rows.append(row)
    print(report.device_table(rows))
    return {
        "machine": host,
        "versions": {side: what["version"] for side, what in said.items()},
        "left_out": left_out,
        "steps": cells,
        "device": rows,
        "recorded": check.record(read_model_file(path) for path in files.values()),
    }


def run_zoo(args: argparse.Namespace) -> dict[str, Any]:
    """Memory, start and size of every model that comes with QFLARE."""
    rows, models = [], check.zoo_models()
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            path = Path(folder) / f"{model.manifest.name}.tflite"
            path.write_bytes(model.tflite)
            rows.append(on_device(model.manifest.name, path, args.starts))
    print(report.device_table(rows))
    return {"machine": machine(), "device": rows, "recorded": check.record(models)}


def main() -> int:
    """Exit 1 if a target is missed."""
    args = arguments()
    if args.check_only is not None:
        try:
            rows, good = check.compare(args.check_only, args.recorded)
        except (OSError, LocalFault, KeyError, ValueError) as fault:
            print(f"nothing to compare with: {fault}; give --recorded FILE", file=sys.stderr)
            return 2
        print(check.table(rows))
        result: dict[str, Any] = {"machine": machine(), "check": rows}
    else:
        result = run_zoo(args) if args.zoo else run(args)
        parts = (*result.get("steps", ()), *result["device"])
        good = all(verdict["ok"] for part in parts for verdict in part["verdicts"])
    if args.json:
        args.json.parent.mkdir(exist_ok=True)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        args.json.write_text(json.dumps({"when": when, **result}, indent=1) + "\n")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())

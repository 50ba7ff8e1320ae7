"""The figures, for people."""

from collections.abc import Sequence
from typing import Any

from benchmarks.training.race import Result
from benchmarks.training.targets import OTHERS, Verdict, fastest, largest_difference


def step_table(title: str, threads: int, results: Sequence[Result]) -> str:
    """Every way that was tried; `*` marks the faster variant of a framework."""
    best = {result.way.side: fastest(results, result.way.side) for result in results}
    reference = next((r for r in results if r.way.side == "tensorflow"), None)
    lines = [
        f"\n{title}, {threads} thread{'s' * (threads > 1)}",
        f"  {'microseconds a step':<38}{'median':>9}{'min':>9}{'p90':>9}{'turns':>16}"
        f"{'loss from TF':>14}{'memory':>9}",
    ]
    for result in results:
        mark = "*" if best[result.way.side] is result else " "
        turns = f"{min(result.medians):,.0f}-{max(result.medians):,.0f}"
        if reference is None or result is reference:
            difference = "-"
        else:
            difference = f"{largest_difference(result.losses, reference.losses):.1e}"
        lines.append(
            f"{mark} {result.way.title:<38}{result.median:>9,.0f}{min(result.times):>9,.0f}"
            f"{result.p90:>9,.0f}{turns:>16}{difference:>14}{result.memory['resident']:>6.0f} MB"
        )
    return "\n".join(lines)


def verdict_lines(verdicts: Sequence[Verdict | None]) -> str:
    return "\n".join(f"  {verdict}" for verdict in verdicts if verdict is not None)


def summary(cells: Sequence[dict[str, Any]]) -> str:
    """One line a model and number of threads: the faster variant of each framework.

    Medians, by which the targets are judged, then minima, which other work on the machine leaves
    alone.
    """
    sides = {"qflare": "QFLARE", "tensorflow": "TensorFlow", "torch": "PyTorch", "numpy": "numpy"}
    lines = []
    for figure, title in (("fastest", "median"), ("minimum", "lowest")):
        heads = "".join(f"{head:>12}" for head in sides.values())
        lines.append(f"\n{title + ' us a step':<20}{'threads':>8}{heads}{'load':>7}")
        for cell in cells:
            found = cell[figure]
            shown = "".join(f"{found[s]:>12,.0f}" if s in found else f"{'-':>12}" for s in sides)
            others = [found[side] for side in OTHERS if side in found]
            verdict = ""
            if "qflare" in found and others:
                verdict = "ok" if found["qflare"] <= min(others) else "MISSED"
            load = f"{cell['load_1min']:>7.1f}"
            lines.append(f"{cell['model']:<20}{cell['threads']:>8}{shown}{load}  {verdict}")
    return "\n".join(lines)


def device_table(rows: Sequence[dict[str, Any]]) -> str:
    """Memory, start and size of model files."""
    lines = [
        f"\n{'on the device':<20}{'parameters':>11}{'file B':>10}{'at most':>10}"
        f"{'memory MB':>11}{'own':>7}{'files':>7}{'no model':>10}{'start s':>9}{'CPU s':>7}"
        f"  others start s"
    ]
    for row in rows:
        others = ", ".join(f"{side} {s:.1f}" for side, s in row.get("others_start_s", {}).items())
        missed = [v["what"] for v in row["verdicts"] if not v["ok"]]
        verdict = f"MISSED: {', '.join(missed)}" if missed else "ok"
        lines.append(
            f"{row['name']:<20}{row['parameters']:>11,}{row['bytes']:>10,}{row['bytes_limit']:>10,}"
            f"{row['memory']['resident']:>11.1f}{row['memory']['own']:>7.1f}"
            f"{row['memory']['files']:>7.1f}{row['memory']['imported']:>10.1f}"
            f"{row['start_s']:>9.3f}{row['memory']['cpu_s']:>7.3f}  "
            f"{others}{', ' * bool(others)}{verdict}"
        )
    lines.append("no model: memory before the runtime is loaded and a model read")
    lines.append("CPU s: processor time of the start, which other work on the machine leaves alone")
    lines.append("want: memory <= 60 MB, start <= 0.3 s, file <= 1.3 x float32 parameters + 150 kB")
    return "\n".join(lines)

"""Figures as people read them, and the verdict in plain sentences."""

from qflare.simulate.report.inputs import ScoreRecord
from qflare.simulate.report.model import ACCURACY_MARGIN, Report

NONE = "–"


def percent(value: float | None, digits: int = 1) -> str:
    """0.8971 as "89.7 %"."""
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def size(value: float | None) -> str:
    """Bytes as "8.3 kB" (1 kB is 1,000 bytes)."""
    if value is None:
        return NONE
    units = ["B", "kB", "MB", "GB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def duration(value: float | None) -> str:
    """Seconds as "320 µs", "12 ms", "1.42 s", "74 s" or "3 min 20 s"."""
    if value is None:
        return NONE
    if value < 0.0995e-2:
        return f"{1e6 * value:.0f} µs"
    if value < 0.9995:
        return f"{1e3 * value:.1f} ms" if value < 0.00995 else f"{1e3 * value:.0f} ms"
    if value < 9.95:
        return f"{value:.2f} s"
    if value < 99.5:
        return f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s"


def plural(n: int, noun: str) -> str:
    """3 and "round" as "3 rounds"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def reasons(refused: dict[str, int]) -> str:
    """{"replay": 2} as "2 × replay"."""
    return ", ".join(f"{n:,} × {reason}" for reason, n in refused.items())


def ratio(whole: float | None, part: float | None) -> str:
    """How many times `whole` is as large as `part`, as "8.1×"."""
    return f"{whole / part:.1f}×" if whole and part else NONE


def printable(text: str) -> str:
    """`text` without control characters: a name must not steer a terminal."""
    return "".join(c if c.isprintable() else "�" for c in text)


def verdict(report: Report) -> tuple[str, ...]:
    """Two to five short sentences: what was reached, at what price, and what it doesn't show."""
    said = [_outcome(report)]
    if report.final_accuracy is not None:
        said.append(_accuracy(report))
    elif report.final_loss is not None and not report.counted:
        said.append(_loss(report))
    if report.score and report.score.auc is not None:
        said.append(_score(report.score, report.reference_score))
    if report.sizes.wire is not None and report.rounds:
        said.append(_cost(report))
    said += _troubles(report)
    if report.evidence_simulated:
        said.append(
            f"The evidence was SIMULATED ({report.evidence or 'insecure_simulated'}): "
            "nothing here proves what the enclave ran."
        )
    return tuple(said)


def _outcome(report: Report) -> str:
    if not report.ok:
        return f"FAILED: {'; '.join(report.reasons)}."
    took = f" in {duration(report.wall_s)}" if report.wall_s is not None else ""
    return f"{plural(report.devices, 'device')} trained for {plural(report.rounds, 'round')}{took}."


def _accuracy(report: Report) -> str:
    examples = plural(report.test_examples, "test example")
    said = f"The global model is right on {percent(report.final_accuracy)} of {examples}"
    gap, error = report.gap, report.gap_error
    if gap is None or error is None:
        return f"{said}; there was no reference run to compare it with."
    points = f"{abs(100 * gap):.1f} points {'above' if gap >= 0 else 'below'}"
    said += f", {points} the same schedule in plain float arithmetic"
    said += f" ({percent(report.reference_accuracy)}), where chance alone makes up to"
    said += f" {200 * error:.1f} points (two standard errors)"
    margin = f"the {100 * ACCURACY_MARGIN:.0f} points that sealing and compression may cost"
    if report.keeps_up is None:
        return f"{said}: one run can't tell whether that is within {margin}."
    return f"{said}: {'within' if report.keeps_up else 'MORE than'} {margin}."


def _loss(report: Report) -> str:
    said = f"The global model's mean loss on the test examples is {figure(report.final_loss)}"
    if report.reference_loss is None:
        return f"{said}; there was no reference run to compare it with."
    plain = figure(report.reference_loss)
    return f"{said}; the same schedule in plain float arithmetic gives {plain}."


def _score(score: ScoreRecord, plain: ScoreRecord | None) -> str:
    said = (
        f"Its error puts {percent(score.auc)} of pairs of an anomaly and a normal example in the "
        f"right order (AUC), and finds {percent(score.recall)} of the anomalies at 1 % false alarms"
    )
    if plain is None or plain.auc is None:
        return said + "."
    return f"{said}; plain float: {percent(plain.auc)} and {percent(plain.recall)}."


def figure(value: float | None) -> str:
    """A loss as "0.443", or "4.4e-05" if it is small."""
    if value is None:
        return NONE
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


def _cost(report: Report) -> str:
    sizes = report.sizes
    said = f"A sealed and signed update took {size(sizes.wire)}"
    if sizes.float32:
        said += f" in place of {size(sizes.float32)} of float32"
    if report.overhead_s_per_round_median is not None:
        said += (
            f"; a round took {duration(report.overhead_s_per_round_median)} (median) "
            "beyond the training itself"
        )
    return said + "."


def _troubles(report: Report) -> list[str]:
    said = []
    if 0 < report.evaluated_devices < report.devices:
        said.append(f"Only {report.evaluated_devices:,} of {report.devices:,} devices tested it.")
    if report.refused:
        n = sum(report.refused.values())
        said.append(f"{plural(n, 'update')} refused ({reasons(report.refused)}).")
    abandoned = len(report.per_round) - report.rounds
    if abandoned:
        said.append(f"{plural(abandoned, 'round')} not released.")
    if report.restarts:
        names = ", ".join(sorted(set(report.restarts)))
        said.append(f"{plural(len(report.restarts), 'restart')} on the way ({names}).")
    return said

"""The figures for people: what, target, QFLARE, Flower, and what is missed. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A figure, and the most that it may be, if there is such a bound."""

    name: str
    says: str
    digits: int = 0
    most: float | None = None


ROWS = (
    Row("idle_pss_mb", "memory at rest, PSS, MB", 1, 40),
    Row("idle_rss_mb", "  RSS", 1),
    Row("idle_anonymous_mb", "  anonymous", 1),
    Row("training_pss_mb", "memory while training, PSS, MB", 1, 100),
    Row("training_rss_mb", "  RSS", 1),
    Row("training_anonymous_mb", "  anonymous", 1),
    Row("idle_cpu_s_per_minute", "processor time at rest, s a minute", 3, 0.2),
    Row("cpu_s_per_round_outside_training", "processor time beside training, s a round", 3, 0.15),
    Row("cpu_s_first_round", "  if the training process is yet to start", 3, 0.15),
    Row("training_cpu_s_per_round", "  the training itself", 3),
    Row("idle_bytes_per_minute", "traffic at rest, bytes a minute", 0, 2048),
    Row("bytes_up_per_round", "traffic of a round, bytes up", 0),
    Row("bytes_down_per_round", "  down", 0),
    Row("cold_start_s", "start until ready, s", 2, 1.5),
    Row("cold_start_cpu_s", "  processor time of it", 2),
    Row("install_mb", "installed on arm64, MB", 1, 120),
    Row("install_whole_mb", "  as pip leaves it", 1),
    Row("install_compiled_mb", "  with everything compiled", 1),
    Row("written_kb_per_round", "written in a round, kB", 0),
    Row("idle_written_mb_per_day", "written at rest, MB a day", 2),
    Row("seconds_per_round", "a round, s", 2),
)


def missed(figures: Mapping[str, float]) -> list[str]:
    """The names of the figures that are beyond their bounds."""
    return [row.name for row in ROWS if row.most is not None and _over(row, figures)]


def _over(row: Row, figures: Mapping[str, float]) -> bool:
    return row.most is not None and figures.get(row.name, 0.0) > row.most


def table(result: Mapping[str, Any]) -> str:
    """All rows; a figure that wasn't measured is a dash."""
    figures = result["figures"]
    lines = [
        " · ".join(f"{key} {value}" for key, value in result["machine"].items()),
        f"{result['job']}; {result['rounds']} rounds, then {result['idle_s']:g} s of rest",
        f"{'what':<44}{'at most':>9}{'QFLARE':>12}{'Flower ' + result['flwr']:>16}",
    ]
    for row in ROWS:
        ours, theirs = (_number(row, figures[side]) for side in ("qflare", "flower"))
        most = "" if row.most is None else f"{row.most:g}"
        verdict = ""
        if row.most is not None and row.name in figures["qflare"]:
            verdict = "  MISSED" if _over(row, figures["qflare"]) else "  met"
        lines.append(f"{row.says:<44}{most:>9}{ours:>12}{theirs:>16}{verdict}".rstrip())
    return "\n".join(lines)


def _number(row: Row, figures: Mapping[str, float]) -> str:
    return f"{figures[row.name]:,.{row.digits}f}" if row.name in figures else "-"

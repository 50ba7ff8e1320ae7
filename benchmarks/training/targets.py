"""What is wanted, and whether it was reached."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.training.race import Result

LOSS_DIFFERENCE: Final = 1e-4
MEMORY_MB: Final = 60.0
START_S: Final = 0.3
FILE_FACTOR, FILE_BYTES = 1.3, 150_000
OTHERS: Final = ("tensorflow", "torch")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure beside its target."""

    what: str
    value: float
    limit: float
    unit: str
    ok: bool

    def __str__(self) -> str:
        word = "ok" if self.ok else "MISSED"
        value, limit = (f"{v:,.3g}" if v < 100 else f"{v:,.0f}" for v in (self.value, self.limit))
        return f"{self.what}: {value} {self.unit} (want <= {limit}) {word}"


def fastest(results: Sequence[Result], side: str) -> Result | None:
    """The framework's better variant, by median."""
    found = [result for result in results if result.way.side == side]
    return min(found, key=lambda result: result.median) if found else None


def step(results: Sequence[Result]) -> Verdict | None:
    """QFLARE's median step against the faster of TensorFlow and PyTorch, whichever are here."""
    ours = fastest(results, "qflare")
    others = [result.median for side in OTHERS if (result := fastest(results, side))]
    if ours is None or not others:
        return None
    return _at_most("step", ours.median, min(others), "us")


def agreement(results: Sequence[Result]) -> list[Verdict]:
    """The largest difference in loss from TensorFlow's plain variant, for every other way."""
    reference = next((r for r in results if r.way.side == "tensorflow"), None)
    if reference is None:
        return []
    verdicts = []
    for result in results:
        if result is not reference:
            verdicts.append(
                _at_most(
                    f"loss of {result.way.title}",
                    largest_difference(result.losses, reference.losses),
                    LOSS_DIFFERENCE,
                    "from TensorFlow's",
                )
            )
    return verdicts


def largest_difference(found: Sequence[float], wanted: Sequence[float]) -> float:
    """NaN if any is, which is within no limit."""
    return float(np.max(np.abs(np.subtract(found, wanted))))


def memory(megabytes: float) -> Verdict:
    return _at_most("memory while training", megabytes, MEMORY_MB, "MB")


def start(seconds: Sequence[float]) -> Verdict:
    return _at_most("start to first step", statistics.median(seconds), START_S, "s")


def file_size(found: int, parameters: int) -> Verdict:
    return _at_most("file", found, FILE_FACTOR * 4 * parameters + FILE_BYTES, "B")


def _at_most(what: str, value: float, limit: float, unit: str) -> Verdict:
    return Verdict(what, value, limit, unit, value <= limit)

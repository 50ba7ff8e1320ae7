"""Which windows are fit to train on, and what is wrong with the others. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.sources.settings import Channel, QualitySection
from qflare.host.model.manifest import Input

_DRIFTED: Final = 1.0  # scales that a channel's mean may be off before it is called so
_SPREAD: Final = 3.0  # times that its deviation may be larger or smaller than the manifest's scale


class Verdict(IntEnum):
    """Why a window is left out; the first that applies."""

    FIT = 0
    UNLABELLED = 1
    UNKNOWN_LABEL = 2
    NOT_FINITE = 3
    MISSING = 4  # samples, or too many of them, for its rate
    STUCK = 5
    CLIPPED = 6
    DRIFTED = 7
    BORDER = 8  # it lies across training and test part

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Judge:
    """What windows are judged by: the model's input and its channels' ranges."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    low: NDArray[np.float32]  # -inf where a channel has no range
    high: NDArray[np.float32]
    may_rest: NDArray[np.bool_]
    settings: QualitySection

    @classmethod
    def of(cls, says: Input, channels: Sequence[Channel], settings: QualitySection) -> "Judge":
        """`channels` in the order of the model's."""
        return cls(
            np.asarray(says.mean, np.float32),
            np.asarray(says.scale, np.float32),
            np.array([-np.inf if c.low is None else c.low for c in channels], np.float32),
            np.array([np.inf if c.high is None else c.high for c in channels], np.float32),
            np.array([c.may_rest for c in channels], np.bool_),
            settings,
        )

    def verdicts(self, x: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Of windows (n, rows, channels), in physical units; missing rows aren't seen here."""
        says, rows = self.settings, x.shape[1]
        found = np.zeros(len(x), np.uint8)

        def mark(bad: NDArray[np.bool_], verdict: Verdict) -> None:
            found[(found == 0) & bad] = verdict

        with np.errstate(over="ignore", invalid="ignore"):
            # What overflows when it is scaled is as useless to a model as NaN.
            finite = np.isfinite((x - self.mean) / self.scale).all(axis=(1, 2))
            mark(~finite, Verdict.NOT_FINITE)
            if says.stuck_rows and rows >= says.stuck_rows:
                still = (x == x[:, :1]).all(axis=1) & ~self.may_rest
                mark(still.any(axis=1), Verdict.STUCK)
            if says.clipped:
                ends = (x <= self.low) | (x >= self.high)
                mark((ends.mean(axis=1) > says.clipped).any(axis=1), Verdict.CLIPPED)
            if says.drift:
                off = np.abs(x.mean(axis=1) - self.mean) / self.scale
                mark((off > says.drift).any(axis=1), Verdict.DRIFTED)
        return found


class Moments:
    """Mean and deviation of each channel over all windows that were looked at, finite ones only."""

    def __init__(self, channels: int) -> None:
        self._count = np.zeros(channels)
        self._sum = np.zeros(channels)
        self._square = np.zeros(channels)

    def add(self, x: NDArray[np.float32], judge: Judge) -> None:
        """Take windows (n, rows, channels), in the manifest's scales so that sums stay exact."""
        with np.errstate(over="ignore", invalid="ignore"):
            z = (x.reshape(-1, x.shape[-1]).astype(np.float64) - judge.mean) / judge.scale
        good = np.isfinite(z) & (np.abs(z) < 1e6)
        z = np.where(good, z, 0)
        self._count += good.sum(axis=0)
        self._sum += z.sum(axis=0)
        self._square += (z**2).sum(axis=0)

    @property
    def size(self) -> int:
        return len(self._count)

    def join(self, other: "Moments") -> None:
        self._count += other._count
        self._sum += other._sum
        self._square += other._square

    def channels(self, names: Sequence[str], judge: Judge) -> list[dict[str, Any]]:
        """Each channel's mean and deviation beside what the model expects."""
        found = []
        count = np.maximum(self._count, 1)
        off = self._sum / count
        spread = np.sqrt(np.maximum(self._square / count - off**2, 0))
        for i, name in enumerate(names):
            drifted = self._count[i] > 0 and (
                abs(off[i]) > _DRIFTED or not 1 / _SPREAD < spread[i] < _SPREAD
            )
            found.append(
                {
                    "name": name,
                    "values": int(self._count[i]),
                    "mean": _short(off[i] * judge.scale[i] + judge.mean[i]),
                    "deviation": _short(spread[i] * judge.scale[i]),
                    "expected_mean": _short(judge.mean[i]),
                    "expected_deviation": _short(judge.scale[i]),
                    "drifted": bool(drifted),
                }
            )
        return found


def _short(value: float) -> float:
    return float(f"{value:.5g}")

"""The exact, order-free, weighted mean of a cohort's updates, and the sums of its tallies.

`Accumulator.admit` is the only way into the sums: shape, norm, weight and tallies are checked and
the update is added in one call, so no caller can add what was not checked. The mean's numbers are
whole and below 2^53 by the overflow law in `qflare.tensors`; float64 holds them exactly, and so the
sum is the same for every order and every number of threads. Memory depends on the model alone.
"""

from dataclasses import dataclass
from threading import Lock

import numpy as np

from qflare import tallies as counts
from qflare.faults import PeerFault, Reason
from qflare.tallies import Tallies
from qflare.tensors import (
    BLOCK,
    FRACTION_BITS,
    SIZE_MAX,
    BlockVector,
    DoubleVector,
    blocks_of,
    check_bounds,
    clip_units,
)

_BATCH = 8  # updates added in one pass over the sum, which is the slow memory
_BLOCKS_AT_ONCE = 32  # scratch of 32 · 8 · 256 float64 = 512 KiB: stays in the cache


@dataclass(frozen=True, slots=True)
class Limits:
    """What a round's policy lets one update be, and how many there must and may be."""

    size: int
    clip_norm: float
    weight_cap: int
    min_cohort: int
    max_cohort: int
    classes: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= SIZE_MAX:
            raise PeerFault(Reason.POLICY_NOT_ALLOWED, f"a model of {self.size} coordinates")
        check_bounds(self.clip_norm, self.weight_cap, self.max_cohort)
        if not 1 <= self.min_cohort <= self.max_cohort:
            raise PeerFault(
                Reason.POLICY_NOT_ALLOWED, f"cohort of {self.min_cohort}…{self.max_cohort}"
            )


class Accumulator:
    """A running weighted sum. Any number of threads may call `admit` at the same time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ceiling = clip_units(limits.clip_norm) ** 2
        self._sum = np.zeros((blocks_of(limits.size), BLOCK))
        self._count = 0
        self._total_weight = 0
        self._tallies = counts.zeros(limits.classes)
        self._pending: list[tuple[BlockVector, int]] = []
        self._door = Lock()  # guards the counts and the pending list; held for microseconds
        self._adding = Lock()  # guards the sum

    @property
    def count(self) -> int:
        """How many updates were admitted."""
        return self._count

    @property
    def total_weight(self) -> int:
        """The sum of their weights."""
        return self._total_weight

    @property
    def tallies(self) -> Tallies:
        """The sums of their tallies; no single device's are kept."""
        return self._tallies

    def admit(self, update: BlockVector, weight: int, tallies: Tallies) -> None:
        """Check one update and add it with its weight and tallies, or leave the sums as they were.

        Raise PeerFault: WRONG_SHAPE, BAD_WEIGHT, BAD_TALLIES, NORM_TOO_LARGE, or COHORT_FULL.
        """
        limits = self._limits
        if update.size != limits.size:
            raise PeerFault(Reason.WRONG_SHAPE, f"{update.size} coordinates, want {limits.size}")
        if not 1 <= weight <= limits.weight_cap:
            raise PeerFault(Reason.BAD_WEIGHT, f"weight {weight} outside 1…{limits.weight_cap}")
        counts.verify(tallies, limits.classes, limits.weight_cap)
        if update.squared_norm() > self._ceiling:
            raise PeerFault(Reason.NORM_TOO_LARGE, f"norm above the clip norm {limits.clip_norm}")
        with self._door:
            if self._count >= limits.max_cohort:
                raise PeerFault(Reason.COHORT_FULL, f"{limits.max_cohort} updates are in already")
            self._count += 1
            self._total_weight += weight
            self._tallies = counts.add(self._tallies, tallies)
            self._pending.append((update, weight))
            batch = self._take() if self._is_batch() else []
        self._add(batch)

    def mean(self) -> DoubleVector:
        """The weighted mean float64[size], correctly rounded once per coordinate.

        Raise PeerFault(BELOW_MIN_COHORT) if too few updates were admitted. The caller makes sure
        that no `admit` is still running.
        """
        with self._door:
            batch = self._take()
        self._add(batch)
        if self._count < self._limits.min_cohort:
            raise PeerFault(
                Reason.BELOW_MIN_COHORT, f"{self._count} updates, want {self._limits.min_cohort}"
            )
        flat = self._sum.ravel()[: self._limits.size]
        return np.ldexp(flat / self._total_weight, -FRACTION_BITS)

    def _is_batch(self) -> bool:
        # Pending updates never outweigh the sum itself, whatever the type of their levels.
        held = sum(update.levels.nbytes for update, _ in self._pending)
        return len(self._pending) >= _BATCH or held >= self._sum.nbytes

    def _take(self) -> list[tuple[BlockVector, int]]:
        batch, self._pending = self._pending, []
        return batch

    def _add(self, batch: list[tuple[BlockVector, int]]) -> None:
        """Add Σ weight · scale · level, a few blocks at a time, as products of small matrices."""
        if not batch:
            return
        factors = np.stack([u.scales * np.float64(weight) for u, weight in batch], axis=1)
        levels = np.stack([update.levels for update, _ in batch])
        scratch = np.empty((_BLOCKS_AT_ONCE, len(batch), BLOCK))
        with self._adding:
            for start in range(0, len(self._sum), _BLOCKS_AT_ONCE):
                part = slice(start, start + _BLOCKS_AT_ONCE)
                wide = scratch[: len(self._sum[part])]
                np.copyto(wide, levels[:, part].swapaxes(0, 1))
                self._sum[part] += np.matmul(factors[part, None, :], wide)[:, 0]

"""Model shapes, flat weights, and the fixed-point numbers in which updates are added.

An update travels and is added as whole numbers in units of 2^-FRACTION_BITS, so its sum is exact
and cannot depend on the order of arrival. The **overflow law**: with `clip` the largest Euclidean
norm of an update and `W` the largest total weight, every partial sum of every coordinate is at
most clip · 2^FRACTION_BITS · W in magnitude. `check_bounds` keeps this below 2^EXACT_BITS, up to
which float64 holds every whole number, so adding and multiplying them in float64 never rounds.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qflare.blocks import BLOCK as BLOCK
from qflare.blocks import blocks_of as blocks_of
from qflare.faults import LocalFault, PeerFault, Reason

FRACTION_BITS = 24  # a resolution of 6e-8, and clips up to 127
EXACT_BITS = 53
SIZE_MAX = 2**28  # coordinates in a model
CLIP_MAX = 127.0  # so that one coordinate fits an int32
TENSORS_MAX = 4096

FloatVector = NDArray[np.float32]
DoubleVector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The trainable tensors in their one order; a model's weights are their concatenation."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.tensors]
        if not 1 <= len(names) <= TENSORS_MAX or len(set(names)) != len(names):
            raise PeerFault(
                Reason.BAD_VALUE, f"a model has 1…{TENSORS_MAX} differently named tensors"
            )
        for name, shape in self.tensors:
            if not all(1 <= side <= SIZE_MAX for side in shape):
                raise PeerFault(Reason.BAD_VALUE, f"tensor {name[:40]!r} has shape {shape}")
        if self.size > SIZE_MAX:
            raise PeerFault(Reason.TOO_LARGE, f"{self.size} coordinates, at most {SIZE_MAX}")

    @property
    def size(self) -> int:
        """The number of coordinates in all tensors together."""
        return sum(math.prod(shape) for _, shape in self.tensors)

    def split(self, flat: FloatVector) -> dict[str, FloatVector]:
        """View flat weights float32[size] as the tensors by name."""
        if flat.shape != (self.size,):
            raise LocalFault(
                f"flat weights have shape {flat.shape}, the model wants ({self.size},)"
            )
        parts, start = {}, 0
        for name, shape in self.tensors:
            end = start + math.prod(shape)
            parts[name] = flat[start:end].reshape(shape)
            start = end
        return parts

    def join(self, parts: dict[str, FloatVector]) -> FloatVector:
        """Concatenate tensors into new flat weights float32[size]; the inverse of `split`."""
        if parts.keys() != dict(self.tensors).keys():
            raise LocalFault(
                f"the model has tensors {[n for n, _ in self.tensors]}, got {[*parts]}"
            )
        for name, shape in self.tensors:
            if parts[name].shape != shape:
                raise LocalFault(f"{name!r} has shape {parts[name].shape}, the model wants {shape}")
        return np.concatenate(
            [np.asarray(parts[name], np.float32).ravel() for name, _ in self.tensors]
        )


def weights_to_bytes(weights: FloatVector) -> bytes:
    """Little-endian float32, four bytes a coordinate; raise LocalFault unless all are finite."""
    if not np.isfinite(weights).all():
        raise LocalFault("weights are not finite: lower the learning rate, or drop this result")
    return weights.astype("<f4", copy=False).tobytes()


def weights_from_bytes(data: bytes | memoryview, size: int) -> FloatVector:
    """Parse `weights_to_bytes` output of exactly `size` coordinates into a new float32[size].

    Raise PeerFault: WRONG_SHAPE for another length, NOT_FINITE for NaN or infinity.
    """
    if len(data) != 4 * size:
        raise PeerFault(Reason.WRONG_SHAPE, f"{len(data)} bytes of weights, want {4 * size}")
    weights = np.frombuffer(data, "<f4").astype(np.float32)
    if not np.isfinite(weights).all():
        raise PeerFault(Reason.NOT_FINITE, "weights are not finite")
    return weights


@dataclass(frozen=True, slots=True, eq=False)
class BlockVector:
    """What every codec decodes to: coordinate i is levels.flat[i] · scales[i // BLOCK] units.

    `levels` is int8 or int32 [blocks_of(size), BLOCK], zero beyond `size`; int32 levels come with
    scales of one. `scales` is uint32[blocks_of(size)]. A unit is 2^-FRACTION_BITS.
    """

    levels: NDArray[np.signedinteger[Any]]
    scales: NDArray[np.uint32]
    size: int

    def __post_init__(self) -> None:
        blocks = blocks_of(self.size)
        sound = (
            self.levels.shape == (blocks, BLOCK)
            and self.scales.shape == (blocks,)
            and self.scales.dtype == np.uint32
            and (
                self.levels.dtype == np.int8
                or (self.levels.dtype == np.int32 and bool((self.scales == 1).all()))
            )
            and not self.levels.ravel()[self.size :].any()
        )
        if not sound:
            raise LocalFault("a BlockVector was built with wrong shapes or types; mend its codec")

    def units(self) -> NDArray[np.int64]:
        """The exact coordinates int64[size], in units."""
        wide = self.levels.astype(np.int64) * self.scales.astype(np.int64)[:, None]
        return wide.ravel()[: self.size]

    def values(self) -> DoubleVector:
        """The exact coordinates float64[size]."""
        return np.ldexp(self.units().astype(np.float64), -FRACTION_BITS)

    def squared_norm(self) -> int:
        """The exact sum of squares, in units², as an unbounded integer."""
        if self.levels.dtype == np.int32:
            return _sum_of_squares(self.levels)
        # Squares of a block's levels add up to at most 256 · 128² = 2^22: exact in float32.
        squares = np.einsum("bi,bi->b", self.levels, self.levels, dtype=np.float32)
        # Times the scales' squares, in three limbs of 22 bits so that no uint64 overflows.
        weights, square_scales = squares.astype(np.uint64), self.scales.astype(np.uint64) ** 2
        limbs = (square_scales >> np.uint64(22 * i) & np.uint64(2**22 - 1) for i in range(3))
        return sum(int((limb * weights).sum()) << (22 * i) for i, limb in enumerate(limbs))


def _sum_of_squares(levels: NDArray[np.signedinteger[Any]]) -> int:
    """Σ levels² for int32, exactly: 16-bit limbs, so that an int64 holds every partial sum."""
    total = 0
    for row in np.array_split(levels.ravel(), -(-levels.size // 2**16) or 1):
        high, low = row.astype(np.int64) >> 16, row.astype(np.int64) & 0xFFFF
        parts = [int((a * b).sum()) for a, b in ((high, high), (high, low), (low, low))]
        total += (parts[0] << 32) + (parts[1] << 17) + parts[2]
    return total


def clip_units(clip_norm: float) -> int:
    """The largest admitted norm in units, rounded down; raise PeerFault(POLICY_NOT_ALLOWED)."""
    if not 2.0**-16 <= clip_norm <= CLIP_MAX:  # also refuses NaN
        raise PeerFault(
            Reason.POLICY_NOT_ALLOWED, f"clip norm {clip_norm} outside 2^-16…{CLIP_MAX}"
        )
    return math.floor(math.ldexp(clip_norm, FRACTION_BITS))


def check_bounds(clip_norm: float, weight_cap: int, max_cohort: int) -> None:
    """Raise PeerFault(POLICY_NOT_ALLOWED) unless the overflow law holds for this policy."""
    if weight_cap < 1 or max_cohort < 1:
        raise PeerFault(Reason.POLICY_NOT_ALLOWED, "weight cap and maximum cohort start at 1")
    if clip_units(clip_norm) * weight_cap * max_cohort >= 2**EXACT_BITS:
        raise PeerFault(
            Reason.POLICY_NOT_ALLOWED,
            f"clip norm {clip_norm} · weight cap {weight_cap} · cohort {max_cohort} could pass "
            f"2^{EXACT_BITS - FRACTION_BITS}, where sums would round",
        )

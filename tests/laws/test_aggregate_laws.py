"""Laws of the aggregate: exact, the same for every order and split over threads, bounded."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from enclave.aggregate import Accumulator, Limits
from qflare.compression import CODECS
from qflare.compression.encoding import encode
from qflare.faults import PeerFault, Reason
from qflare.tallies import Tallies, zeros
from qflare.tensors import BLOCK, FRACTION_BITS, BlockVector, blocks_of, clip_units
from tests.strategies import tallies

Cohort = list[tuple[BlockVector, int, Tallies]]
CLASSES = 3
NONE = zeros(CLASSES)


TALLIES = tallies(CLASSES)


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[int, Cohort]:
    size = draw(st.integers(1, 700))
    cohort = []
    for _ in range(draw(st.integers(1, 21))):
        codec = CODECS[draw(st.sampled_from(["fixed32", "q8", "q4"]))]
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        delta = rng.standard_normal(size).astype(np.float32)
        cohort.append(
            (encode(delta, codec, rng, 8.0)[1], draw(st.integers(1, 1000)), draw(TALLIES))
        )
    return size, cohort


def limits(size: int, **changes: int | float) -> Limits:
    values = {"clip_norm": 8.0, "weight_cap": 1000, "min_cohort": 1, "max_cohort": 1000}
    values["classes"] = CLASSES
    return Limits(size=size, **(values | changes))  # type: ignore[arg-type]


def sums_of(size: int, cohort: Cohort, threads: int = 0) -> tuple[bytes, Tallies]:
    accumulator = Accumulator(limits(size))
    if threads:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda it: accumulator.admit(*it), cohort))
    else:
        for it in cohort:
            accumulator.admit(*it)
    return accumulator.mean().tobytes(), accumulator.tallies


@given(cohorts(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_every_order_and_split_gives_the_same_bytes(
    drawn: tuple[int, Cohort], random: object, threads: int
) -> None:
    size, cohort = drawn
    shuffled = list(cohort)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sums_of(size, cohort) == sums_of(size, shuffled) == sums_of(size, shuffled, threads)


@given(cohorts())
def test_the_mean_is_the_exact_one_rounded_once(drawn: tuple[int, Cohort]) -> None:
    size, cohort = drawn
    mean, sums = sums_of(size, cohort)
    got = np.frombuffer(mean)
    assert sums == tuple(map(sum, zip(*(said for _, _, said in cohort), strict=True)))
    total = sum(weight for _, weight, _ in cohort)
    units = [(update.units(), weight) for update, weight, _ in cohort]
    for i in range(0, size, 97):
        exact = Fraction(sum(int(u[i]) * w for u, w in units), total * 2**FRACTION_BITS)
        assert got[i] == float(exact)


@given(cohorts())
def test_squared_norm_is_exact(drawn: tuple[int, Cohort]) -> None:
    for update, _, _ in drawn[1]:
        assert update.squared_norm() == sum(int(u) ** 2 for u in update.units())


@given(st.integers(1, 2000), st.integers(0, 2**32 - 1), st.sampled_from([np.int8, np.int32]))
def test_squared_norm_is_exact_at_the_extremes(size: int, seed: int, kind: type) -> None:
    rng, blocks = np.random.default_rng(seed), blocks_of(size)
    levels: NDArray[np.signedinteger[Any]] = np.zeros(blocks * BLOCK, kind)
    levels[:size] = rng.choice([np.iinfo(kind).min, np.iinfo(kind).max, 0, 1], size)
    scales = (
        np.ones(blocks, np.uint32)
        if kind is np.int32
        else rng.choice([2**32 - 1, 0, 1, 4095 << 20], blocks).astype(np.uint32)
    )
    update = BlockVector(levels.reshape(blocks, BLOCK), scales, size)
    each = np.repeat(scales, BLOCK)[:size]
    want = sum((int(a) * int(b)) ** 2 for a, b in zip(levels[:size], each, strict=True))
    assert update.squared_norm() == want


@given(st.integers(1, 600), st.floats(2.0**-10, 100), st.integers(0, 2**32 - 1))
def test_one_unit_too_long_is_refused(size: int, norm: float, seed: int) -> None:
    ceiling = clip_units(norm)
    levels = np.zeros(blocks_of(size) * BLOCK, np.int32)
    place = seed % size
    accumulator = Accumulator(limits(size, clip_norm=norm))
    shape, ones = (blocks_of(size), BLOCK), np.ones(blocks_of(size), np.uint32)
    levels[place] = ceiling
    accumulator.admit(BlockVector(levels.reshape(shape).copy(), ones, size), 1, NONE)
    before = accumulator.mean().tobytes()
    levels[place] = -ceiling - 1
    with pytest.raises(PeerFault) as refused:
        accumulator.admit(BlockVector(levels.reshape(shape), ones, size), 1, NONE)
    assert refused.value.reason is Reason.NORM_TOO_LARGE
    assert accumulator.mean().tobytes() == before
    assert accumulator.count == 1


@given(st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_the_extreme_sum_is_exact(count: int, seed: int) -> None:
    cap = (2**53 - 1) // (clip_units(127.0) * count)
    accumulator = Accumulator(limits(3, clip_norm=127.0, weight_cap=cap, max_cohort=count))
    levels = np.zeros((1, BLOCK), np.int32)
    levels[0, seed % 3] = clip_units(127.0)
    for i in range(count):
        sign = np.int32(1 if i else -1)
        update = BlockVector(levels * sign, np.ones(1, np.uint32), 3)
        accumulator.admit(update, cap - (seed + i) % 2, NONE)
    weights = [cap - (seed + i) % 2 for i in range(count)]
    exact = Fraction(127 * (sum(weights) - 2 * weights[0]), sum(weights))
    assert accumulator.mean()[seed % 3] == float(exact)

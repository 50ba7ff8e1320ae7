"""What a device adds up about its own test part."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.evaluation import EvalResult, evenly_spaced, tallies
from qflare.faults import LocalFault


def test_tallies_are_rows_and_then_losses() -> None:
    before = EvalResult((5, 0, 2), (1, 0, 2), 7.5)
    after = EvalResult((5, 0, 2), (4, 0, 1), 0.25)
    assert tallies(before, after) == (5, 1, 4, 0, 0, 0, 2, 2, 1, 7680, 256)


def test_losses_stay_within_what_the_enclave_takes() -> None:
    def losses(before: float, after: float) -> tuple[int, ...]:
        return tallies(EvalResult((3,), (0,), before), EvalResult((3,), (0,), after))[-2:]

    assert losses(1e9, -1e-9) == (3 * 2**20, 0)
    for bad in (math.nan, math.inf):
        with pytest.raises(LocalFault, match="not finite"):
            losses(1.0, bad)
    assert tallies(EvalResult((0,), (0,), 0.0), EvalResult((0,), (0,), 0.0)) == (0,) * 5
    with pytest.raises(LocalFault, match="other examples"):
        tallies(EvalResult((1,), (0,), 0.0), EvalResult((2,), (0,), 0.0))


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_a_sample_of_the_test_part_is_spread_over_it(size: int, limit: int) -> None:
    rows = evenly_spaced(size, limit)
    assert len(rows) == min(size, limit)
    assert len(set(rows.tolist())) == len(rows)
    if len(rows):
        assert rows[0] == 0
        assert rows[-1] < size <= rows[-1] + -(-size // len(rows))

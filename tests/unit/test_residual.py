"""What compression left over comes back from the disk nearly as it was."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import residual

finite = st.floats(-100, 100, width=32)


@given(st.lists(finite, min_size=1, max_size=50))
def test_it_comes_back_to_eleven_bits(values: list[float]) -> None:
    before = np.array(values, np.float32)
    data = residual.to_bytes(before)
    assert len(data) == 4 + 2 * before.size
    after = residual.from_bytes(data, before.size)
    assert after.dtype == np.float32
    assert np.abs(after - before).max() <= np.abs(before).max() * 2.0**-11
    np.testing.assert_array_equal(residual.from_bytes(residual.to_bytes(after), after.size), after)


@pytest.mark.parametrize("largest", [0.0, 2.0**-149, 1e-30, 1.0, 2.0**127])
def test_any_magnitude_will_do(largest: float) -> None:
    before = np.array([largest, -largest / 3, 0.0], np.float32)
    with np.errstate(all="raise", under="ignore"):
        after = residual.from_bytes(residual.to_bytes(before), 3)
    np.testing.assert_allclose(after, before, rtol=2.0**-10, atol=2.0**-149)


def test_what_is_of_another_model_or_damaged_is_no_use() -> None:
    data = residual.to_bytes(np.ones(5, np.float32))
    assert residual.from_bytes(data, 5).tolist() == [1.0] * 5
    for bad in (None, b"", data[:-2], data + b"\0\0", struct.pack("<f", np.inf) + data[4:]):
        assert residual.from_bytes(bad, 5).tolist() == [0.0] * 5

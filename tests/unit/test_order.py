"""An epoch's order takes each example once, by a drawn list or, beyond memory, by a cipher."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.sources import base
from edge_runtime.sources.base import Order, Samples


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def whole(order: Order, size: int, step: int) -> list[int]:
    return [int(i) for at in range(0, size, step) for i in order.rows(at, at + step)]


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(50, 300), st.booleans())
def test_each_example_comes_once(size: int, seed: int, step: int, drawn: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_PERMUTED_MAX", size if drawn else 0)
        order = whole(Order(size, generator(seed)), size, step)
        assert sorted(order) == [*range(size)]
        assert order == whole(Order(size, generator(seed)), size, 64)


def test_orders_differ_and_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_PERMUTED_MAX", 0)
    size, random = 10_000, generator(3)
    one, two = (np.array(whole(Order(size, random), size, size)) for _ in range(2))
    assert (one == two).mean() < 0.01
    for order in (one, two):
        # As far apart as chance would have it: neighbours, and an example from its own place.
        assert np.abs(np.diff(order)).mean() == pytest.approx(size / 3, rel=0.05)
        assert np.abs(order - np.arange(size)).mean() == pytest.approx(size / 3, rel=0.05)


def test_samples_in_memory_fill_what_is_asked_for() -> None:
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    samples = Samples(x, np.arange(6, dtype=np.int32))
    out, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int32)
    samples.read(np.array([5, 1], np.intp), out, labels)
    assert out.tolist() == [[10, 11], [2, 3], [0, 0]]
    assert labels.tolist() == [5, 1, 0]

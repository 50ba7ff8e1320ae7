"""Model specs, weights as bytes, and the overflow law's gate."""

from typing import Any

import numpy as np
import pytest

from qflare.faults import LocalFault, PeerFault, Reason
from qflare.tensors import (
    BLOCK,
    BlockVector,
    ModelSpec,
    check_bounds,
    clip_units,
    weights_from_bytes,
    weights_to_bytes,
)

SPEC = ModelSpec((("kernel", (3, 2)), ("bias", (2,)), ("gain", ())))


def test_split_and_join_are_inverse() -> None:
    flat = np.arange(9, dtype=np.float32)
    parts = SPEC.split(flat)
    assert SPEC.size == 9
    assert parts["kernel"].shape == (3, 2)
    assert parts["gain"].shape == ()
    assert (SPEC.join(parts) == flat).all()
    with pytest.raises(LocalFault):
        SPEC.split(flat[:-1])
    with pytest.raises(LocalFault):
        SPEC.join({**parts, "bias": flat[:3]})
    with pytest.raises(LocalFault):
        SPEC.join({"bias": flat[:2]})


@pytest.mark.parametrize(
    "tensors",
    [(), (("a", (1,)), ("a", (2,))), (("a", (0,)),), (("a", (-3,)),), (("a", (2**20, 2**20)),)],
)
def test_a_senseless_spec_is_refused(tensors: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    with pytest.raises(PeerFault):
        ModelSpec(tensors)


def test_weights_as_bytes() -> None:
    weights = np.array([1.5, -0.0, 1e-40], np.float32)
    data = weights_to_bytes(weights)
    assert data[:4] == b"\x00\x00\xc0\x3f"
    assert weights_to_bytes(weights_from_bytes(data, 3)) == data
    with pytest.raises(PeerFault) as short:
        weights_from_bytes(data[:-1], 3)
    assert short.value.reason is Reason.WRONG_SHAPE


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(bad: float) -> None:
    weights = np.array([0, bad], np.float32)
    with pytest.raises(LocalFault):
        weights_to_bytes(weights)
    with pytest.raises(PeerFault) as refused:
        weights_from_bytes(weights.tobytes(), 2)
    assert refused.value.reason is Reason.NOT_FINITE


def test_the_overflow_law() -> None:
    check_bounds(8.0, 32_000, 2_000)
    check_bounds(1.0, 1, 2**29 - 1)
    for clip, cap, cohort in [(1.0, 1, 2**29), (8.0, 40_000, 2_000), (8.0, 0, 5), (8.0, 5, 0)]:
        with pytest.raises(PeerFault) as refused:
            check_bounds(clip, cap, cohort)
        assert refused.value.reason is Reason.POLICY_NOT_ALLOWED


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), -1.0, 0.0, 1e-6, 128.0])
def test_a_senseless_clip_norm_is_refused(norm: float) -> None:
    with pytest.raises(PeerFault):
        clip_units(norm)


def test_a_block_vector_is_whole() -> None:
    levels, scales = np.zeros((2, BLOCK), np.int8), np.ones(2, np.uint32)
    BlockVector(levels, scales, 300)
    beyond = levels.copy()
    beyond[1, -1] = 1
    wrong: list[tuple[Any, Any, int]] = [
        (levels[:1], scales, 300),
        (levels, scales[:1], 300),
        (levels, scales.astype(np.int64), 300),
        (levels.astype(np.int16), scales, 300),
        (levels.astype(np.int32), scales * 2, 300),
        (beyond, scales, 300),
    ]
    for args in wrong:
        with pytest.raises(LocalFault):
            BlockVector(*args)

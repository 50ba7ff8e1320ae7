"""A convolution in any blocks is the same convolution."""

from dataclasses import replace
from typing import Any

import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from qflare.authoring.ops import blocks as module  # noqa: E402
from qflare.authoring.ops.blocks import Plan, cheapest  # noqa: E402
from qflare.authoring.ops.patches import (  # noqa: E402
    band,
    patches,
    to_blocks,
    to_image,
    unband,
)


@st.composite
def plans(draw: Any) -> Plan:
    taps = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    rows, columns = (draw(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1))) for k in taps)
    image = (draw(st.integers(taps[0], 9)), draw(st.integers(taps[1], 9)), draw(st.integers(1, 9)))
    plan = Plan(draw(st.integers(1, 2)), image, rows, columns, taps, draw(st.integers(1, 5)))
    block = (draw(st.integers(1, min(4, plan.out[0]))), draw(st.integers(1, min(5, plan.out[1]))))
    return replace(plan, block=block)


def noise(seed: int, *shape: int) -> Any:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), tf.float32)


@settings(max_examples=150, deadline=None)
@given(plans())
def test_any_blocks_give_the_convolution_and_transpose_exactly(plan: Plan) -> None:
    x = noise(1, plan.batch, *plan.image)
    kernel = noise(2, *plan.taps, plan.image[2], plan.filters)
    seen, matrix = patches(x, plan), band(kernel, plan)
    y = to_image(tf.matmul(seen, matrix), plan)
    around = ((0, 0), plan.rows, plan.columns, (0, 0))
    np.testing.assert_allclose(y, tf.nn.conv2d(x, kernel, 1, around), atol=1e-4)

    d, blocked = noise(3, *y.shape), noise(4, seen.shape[0], matrix.shape[1])
    np.testing.assert_allclose(
        tf.reduce_sum(to_image(blocked, plan) * d),
        tf.reduce_sum(blocked * to_blocks(d, plan)),
        atol=1e-3,
    )
    other = noise(5, *matrix.shape)
    np.testing.assert_allclose(
        tf.reduce_sum(matrix * other), tf.reduce_sum(kernel * unband(other, plan)), atol=1e-3
    )


def test_the_blocks_that_were_found_fastest_are_chosen() -> None:
    same = ((1, 1), (1, 1), (3, 3))
    assert cheapest(Plan(32, (28, 28, 1), *same, 8), 2).block == (1, 4)
    assert cheapest(Plan(32, (14, 14, 8), *same, 16), 2).block == (1, 2)
    assert cheapest(Plan(32, (14, 14, 16), *same, 8), 1).block == (2, 2)
    assert cheapest(Plan(32, (14, 14, 64), *same, 64), 2).block == (1, 1)


def test_a_large_image_is_gathered_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(2, (9, 8, 6), (1, 1), (1, 1), (3, 3), 4, (1, 2))
    assert not plan.by_row
    wanted = patches(noise(1, 2, *plan.image), plan)
    monkeypatch.setattr(module, "_MOST_INDICES", 10)
    assert plan.by_row
    assert plan.patch_indices().size == 8
    np.testing.assert_array_equal(patches(noise(1, 2, *plan.image), plan), wanted)
    assert cheapest(plan, 1).block[0] == 1

"""Every op has the value and the gradients of TensorFlow's own, here and in the interpreter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

from qflare.authoring import ops  # noqa: E402
from qflare.authoring.ops.activations import ACTIVATIONS  # noqa: E402
from qflare.authoring.unsupported import Unsupported  # noqa: E402
from tests.authoring.convert import operators, run_in_interpreter  # noqa: E402

RANDOM = np.random.Generator(np.random.PCG64(3))


def noise(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def with_gradients(call: Callable[..., Any], *inputs: Any) -> list[Any]:
    """The value, and the gradients of a weighted sum of it by every input."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = call(*inputs)
        count = int(np.prod(y.shape))
        weights = tf.reshape(tf.sin(tf.range(count, dtype=tf.float32) * 1.7), y.shape)
        total = tf.reduce_sum(y * weights)
    return [y, *tape.gradient(total, inputs)]


def assert_same(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *inputs: np.ndarray,
    tolerance: float = 1e-5,
) -> None:
    wanted = [w.numpy() for w in with_gradients(theirs, *map(tf.constant, inputs))]
    found = run_in_interpreter(lambda *i: with_gradients(ours, *i), *inputs)
    for want, got in zip(wanted, found, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * (1 + np.abs(want).max()))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("image", "kernel", "strides"),
    [
        ((28, 28, 1), (3, 3, 1, 8), (1, 1)),
        ((14, 14, 8), (3, 3, 8, 16), (1, 1)),
        ((7, 9, 3), (3, 2, 3, 4), (1, 1)),
        ((9, 8, 2), (3, 3, 2, 5), (2, 2)),
        ((8, 11, 2), (5, 4, 2, 3), (2, 3)),
        ((6, 5, 3), (1, 1, 3, 40), (1, 1)),
        ((6, 5, 3), (1, 1, 3, 2), (2, 2)),
        ((5, 13, 2), (3, 3, 2, 2), (3, 1)),
        ((90, 92, 5), (3, 3, 5, 6), (1, 1)),  # more runs than one operator gathers
    ],
)
def test_conv2d(image: Any, kernel: Any, strides: Any, padding: str) -> None:
    assert_same(
        lambda x, k, b: ops.conv2d(x, k, b, strides, padding),
        lambda x, k, b: tf.nn.conv2d(x, k, (1, *strides, 1), padding.upper()) + b,
        noise(2, *image),
        noise(*kernel),
        noise(kernel[-1]),
    )


@pytest.mark.parametrize("dilation", [(2, 2), (1, 3)])
def test_dilated_conv2d(dilation: Any) -> None:
    assert_same(
        lambda x, k: ops.conv2d(x, k, None, (1, 1), "same", dilation),
        lambda x, k: tf.nn.conv2d(x, k, 1, "SAME", dilations=dilation),
        noise(2, 9, 11, 2),
        noise(3, 3, 2, 4),
    )


@pytest.mark.parametrize("padding", ["same", "valid", "causal"])
@pytest.mark.parametrize(
    ("length", "kernel", "stride", "dilation"),
    [(128, 6, 2, 1), (64, 8, 2, 1), (17, 3, 1, 1), (20, 5, 3, 1), (16, 3, 1, 2), (12, 1, 1, 1)],
)
def test_conv1d(length: int, kernel: int, stride: int, dilation: int, padding: str) -> None:
    def theirs(x: Any, k: Any, b: Any) -> Any:
        if padding == "causal":
            x = tf.pad(x, ((0, 0), ((kernel - 1) * dilation, 0), (0, 0)))
        pad = "VALID" if padding == "causal" else padding.upper()
        return tf.nn.conv1d(x, k, stride, pad, dilations=dilation) + b

    assert_same(
        lambda x, k, b: ops.conv1d(x, k, b, stride, padding, dilation),
        theirs,
        noise(2, length, 3),
        noise(kernel, 3, 5),
        noise(5),
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_conv2d(multiplier: int, strides: int, padding: str) -> None:
    assert_same(
        lambda x, k, b: ops.depthwise_conv2d(x, k, b, (strides, strides), padding),
        lambda x, k, b: tf.nn.depthwise_conv2d(x, k, (1, strides, strides, 1), padding.upper()) + b,
        noise(2, 9, 8, 3),
        noise(3, 3, 3, multiplier),
        noise(3 * multiplier),
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(2, 2), (3, 3), (1, 4), (3, 2)])
def test_pooling(size: Any, padding: str) -> None:
    x = noise(2, 8, 9, 3) - 1.0
    pad = padding.upper()
    assert_same(
        lambda x: ops.max_pool(x, size, size, padding),
        lambda x: tf.nn.max_pool2d(x, size, size, pad),
        x,
    )
    assert_same(
        lambda x: ops.avg_pool(x, size, size, padding),
        lambda x: tf.nn.avg_pool2d(x, size, size, pad),
        x,
    )


def test_overlapping_pooling_is_refused_with_a_way_out() -> None:
    with pytest.raises(Unsupported, match="pool_size equal to its strides"):
        ops.max_pool(tf.zeros((1, 8, 8, 1)), (3, 3), (2, 2))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    import keras

    theirs = keras.activations.get(name)
    x = np.concatenate(
        [noise(4, 10) * 3, [[-20.0, -6.0, -3.1, -1e-3, 1e-3, 2.9, 5.9, 6.1, 20.0, 8.0]]]
    )
    assert_same(ops.activation(name), theirs, x.astype(np.float32))


def test_an_unknown_activation_names_a_near_one() -> None:
    with pytest.raises(Unsupported, match="'relu'"):
        ops.activation("relu7")


def test_dense_and_rows_of_a_table() -> None:
    ids = np.array([[1, 3], [3, 0]], np.int32)
    assert_same(
        lambda x, k, b: ops.dense(x, k, b),
        lambda x, k, b: tf.tensordot(x, k, 1) + b,
        noise(2, 3, 4),
        noise(4, 5),
        noise(5),
    )
    table = noise(5, 3)
    found = run_in_interpreter(
        lambda t: with_gradients(lambda u: ops.gather_rows(u, tf.constant(ids)), t), table
    )
    np.testing.assert_allclose(found[0], table[ids])
    weights = np.sin(np.arange(12, dtype=np.float32) * 1.7).reshape(4, 3)
    expected = tf.math.unsorted_segment_sum(weights, ids.ravel(), 5).numpy()
    np.testing.assert_allclose(found[1], expected, atol=1e-5)


def test_a_dense_gradient_keeps_to_products_that_have_a_fast_kernel() -> None:
    def gradients(x: Any, kernel: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            total = tf.reduce_sum(ops.dense(x, kernel) ** 2)
        return tape.gradient(total, (x, kernel))

    found = operators(gradients, noise(4, 6), noise(6, 5))
    assert "BATCH_MATMUL" in found
    assert "FULLY_CONNECTED" not in found


def test_losses_are_stable_for_large_logits() -> None:
    logits = np.array([[300.0, -300.0, 0.0], [-1.0, 2.0, 0.5]], np.float32)
    targets = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.3]], np.float32)
    labels = tf.constant([1, 2])
    assert_same(
        lambda x: ops.sigmoid_cross_entropy(x, tf.constant(targets)),
        lambda x: tf.nn.sigmoid_cross_entropy_with_logits(targets, x),
        logits,
    )
    assert_same(
        lambda x: ops.softmax_cross_entropy(x, labels),
        lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x),
        logits,
    )

"""Pooling before bias and activation changes nothing that anybody can see."""

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

import keras  # noqa: E402

from qflare.authoring.graph import read_graph  # noqa: E402
from qflare.authoring.network import Step  # noqa: E402
from qflare.authoring.pooled import pool_first  # noqa: E402
from qflare.authoring.prepare import prepare  # noqa: E402


def model(activation: Any, *, shared: bool = False) -> Any:
    given = keras.Input((8, 9, 2))
    x = keras.layers.Conv2D(4, 3, activation=activation, bias_initializer="normal")(given)
    y = keras.layers.MaxPooling2D(2)(x)
    if shared:
        y = keras.layers.Concatenate()([keras.layers.Flatten()(x), keras.layers.Flatten()(y)])
    return keras.Model(given, keras.layers.Flatten()(y))


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "softplus"])
def test_the_pair_is_one_call_with_the_same_value_and_gradients(activation: Any) -> None:
    ours = model(activation)
    assert len(pool_first(read_graph(ours)).calls) == len(read_graph(ours).calls) - 1
    network = prepare(
        ours, task="regression", batch=3, batch_norm="average", personal=(), cache_features=False
    )
    x = tf.constant(np.random.default_rng(0).standard_normal((3, 8, 9, 2)), tf.float32)
    with tf.GradientTape() as tape:
        found, _ = network.forward(x, Step(training=True, mask=None, noise=None))
        total = tf.reduce_sum(tf.sin(found) * found)
    gradients = tape.gradient(total, [t.variable for t in network.federated])
    with tf.GradientTape() as tape:
        wanted = ours(x, training=True)
        total = tf.reduce_sum(tf.sin(wanted) * wanted)
    expected = tape.gradient(total, [w.value for w in ours.trainable_weights])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for got, want in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_what_somebody_else_reads_or_an_activation_may_turn_round_stays_apart() -> None:
    for other in (model("relu", shared=True), model("silu"), model("gelu")):
        graph = read_graph(other)
        assert len(pool_first(graph).calls) == len(graph.calls)

"""Private training: each example's gradient is clipped, the noise is added, and no more."""

import math
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

from tests.authoring import kit  # noqa: E402

SIZE = 6 * 10 + 10 + 10 * 3 + 3
OPTIONS: dict[str, Any] = {
    "task": "classification",
    "optimiser": "sgd",
    "private": True,
    "personal": ("head",),
}


def device() -> kit.Device:
    return kit.Device(kit.built(kit.mlp, **OPTIONS))


def step(made: kit.Device, batch: Any, clip: float, z: Any = None, lr: float = 1.0) -> Any:
    """How far one step moves all weights, flat."""
    start = made.weights()
    private = {
        "clip": np.array([clip], np.float32),
        "z": np.zeros(SIZE, np.float32) if z is None else z,
    }
    made.train(lr, **batch, **private)
    moved = [(a - b).ravel() for a, b in zip(made.weights(), start, strict=True)]
    made.load(start)
    return np.concatenate(moved).astype(np.float64)


def keras_gradients(batch: Any, weights: tuple[float, ...] = (1.0, 1.0, 1.0)) -> list[Any]:
    """The gradient of each example by itself, flat, in float64."""
    model, found = kit.mlp(), []
    for x, y in zip(batch["x"], batch["y"], strict=True):
        with tf.GradientTape() as tape:
            loss = -tf.math.log(model(x[None])[0, int(y)]) * weights[int(y)]
        parts = tape.gradient(loss, [v.value for v in model.trainable_variables])
        found.append(np.concatenate([np.ravel(p) for p in parts]).astype(np.float64))
    return found


def test_the_sum_of_clipped_gradients_with_noise() -> None:
    made = device()
    batch = kit.batches(made.file, 3)[2]
    gradients = keras_gradients(batch)
    norms = [np.linalg.norm(g) for g in gradients]
    clip = float(np.median(norms))  # some are clipped, some aren't
    assert min(norms) < clip < max(norms)
    z = np.random.Generator(np.random.PCG64(5)).standard_normal(SIZE).astype(np.float32)
    clipped = [
        m * g * min(1.0, clip / n) for g, n, m in zip(gradients, norms, batch["m"], strict=True)
    ]
    wanted = -(sum(clipped) + z) / batch["m"].sum()
    np.testing.assert_allclose(step(made, batch, clip, z), wanted, atol=1e-5)


def test_a_wide_clip_without_noise_is_ordinary_training() -> None:
    plain = kit.Device(kit.built(kit.mlp, **{**OPTIONS, "private": False}))
    batch = kit.batches(plain.file, 1)[0]
    start = plain.weights()
    plain.train(1.0, **batch)
    moved = [(a - b).ravel() for a, b in zip(plain.weights(), start, strict=True)]
    np.testing.assert_allclose(step(device(), batch, 1e6), np.concatenate(moved), atol=1e-5)


@pytest.mark.parametrize("weight", [1.0, 50.0])
def test_one_example_moves_the_weights_by_no_more_than_the_clip(weight: float) -> None:
    made = device()
    batch = kit.batches(made.file, 1)[0]
    wild = {k: v.copy() for k, v in batch.items()}
    wild["x"][0] = 1e4
    wild["y"][0] = (wild["y"][0] + 1) % 3
    wild["m"][0] = weight  # nobody should give such a weight; it must not undo the clip
    total = wild["m"].sum()
    others = {**wild, "m": wild["m"].copy()}
    others["m"][0] = 0.0
    with_it = step(made, wild, 0.3) * total
    without = step(made, others, 0.3) * others["m"].sum()
    assert np.linalg.norm(with_it - without) <= 0.3 * (1 + 1e-4)


def test_padding_adds_nothing_even_if_it_is_huge() -> None:
    made = device()
    batch = kit.batches(made.file, 3)[2]
    wild = {**batch, "x": np.where(batch["m"][:, None] > 0, batch["x"], 1e6).astype(np.float32)}
    np.testing.assert_array_equal(step(made, batch, 0.3), step(made, wild, 0.3))


def test_class_weights_come_before_the_clip() -> None:
    weights = (0.5, 4.0, 1.0)
    made = kit.Device(kit.built(kit.mlp, **OPTIONS, class_weights=weights))
    batch = kit.batches(made.file, 1)[0]
    gradients = keras_gradients(batch, weights)
    clipped = [g * min(1.0, 0.4 / np.linalg.norm(g)) for g in gradients]
    np.testing.assert_allclose(step(made, batch, 0.4), -sum(clipped) / kit.BATCH, atol=1e-5)


def test_each_example_has_its_own_dropout() -> None:
    made = kit.Device(kit.built(kit.dropout_mlp, task="classification", optimiser="sgd",
                                private=True))  # fmt: skip
    batch = kit.batches(made.file, 1)[0]
    size = made.file.manifest.size
    private = {"clip": np.array([1e6], np.float32), "z": np.zeros(size, np.float32)}
    plain = kit.Device(kit.built(kit.dropout_mlp, task="classification", optimiser="sgd"))
    found = made.train(0.5, **batch, **private)
    assert found == pytest.approx(plain.train(0.5, **batch), abs=1e-5)
    kit.assert_close(made.weights(), plain.weights(), 1e-5)


def test_a_private_convolution_learns() -> None:
    made = kit.Device(kit.built(kit.cnn, task="classification", private=True))
    batch = kit.batches(made.file, 1)[0]
    size = made.file.manifest.size
    private = {"clip": np.array([1.0], np.float32), "z": np.zeros(size, np.float32)}
    found = [made.train(0.1, **batch, **private) for _ in range(40)]
    assert found[-1] < 0.7 * found[0]
    assert math.isfinite(found[-1])

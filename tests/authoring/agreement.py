"""Train a Keras model twice, on the device's interpreter and by Keras, and compare.

The first is `prepare`'s network in a .tflite file, trained by the interpreter that devices use; the
second the given model itself, with Keras's layers and a GradientTape. Both see the same batches,
padding and random numbers.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers as k

from qflare.authoring.network import Network, Step
from qflare.authoring.prepare import prepare

BATCH = 4
STEPS = 50
MOMENTUM = 0.9
TOLERANCE = 1e-4
PLAIN: dict[str, Any] = {
    "task": "regression",
    "batch": BATCH,
    "batch_norm": "average",
    "personal": (),
    "cache_features": False,
}
Array = Any


def small(*layers: Any, shape: tuple[int, ...] = (6,)) -> Any:
    """The layers on an input."""
    return keras.Sequential([keras.Input(shape), *layers])


def ready(model: Any, task: str = "regression", **options: Any) -> Network:
    """`prepare` with the plainest options."""
    return prepare(model, **{**PLAIN, "task": task, **options})


@dataclass(frozen=True)
class Run:
    """What a training leaves behind."""

    losses: list[float]
    weights: list[Array]
    names: list[str]
    output: Array  # of `infer`, on the first batch, after training


def agree(
    model: Any,
    *,
    learning_rate: float = 0.02,
    steps: int = STEPS,
    whole: int | None = None,
    tolerance: float = TOLERANCE,
    **options: Any,
) -> Network:
    """Assert that both trainings agree; `whole` asks for whole numbers below it as inputs."""
    network = ready(model, **options)
    batches = _batches(network, steps, whole)
    ours = device_run(network, batches, learning_rate)
    theirs = keras_run(model, network, batches, learning_rate, {**PLAIN, **options})
    assert np.isfinite(theirs.losses).all(), "the learning rate is too large"
    assert np.ptp(ours.losses) > 1e-5, "nothing was learned"
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=tolerance, atol=tolerance)
    for name, a, b in zip(ours.names, ours.weights, theirs.weights, strict=True):
        assert a.shape == b.shape, name
        worst = np.max(np.abs(a - b) / np.maximum(1.0, np.abs(b)), initial=0.0)
        assert worst <= tolerance, f"{name} differs by {worst:.2e}"
    np.testing.assert_allclose(ours.output, theirs.output, rtol=tolerance, atol=tolerance)
    return network


@dataclass(frozen=True)
class Batch:
    x: Array
    y: Array
    m: Array
    r: Array


def _batches(network: Network, steps: int, whole: int | None) -> list[Batch]:
    random = np.random.Generator(np.random.PCG64(7))
    size = (BATCH, *network.input_shape)
    made = []
    for step in range(min(steps, 5)):
        x = random.standard_normal(size) if whole is None else random.integers(0, whole, size)
        m = np.ones(BATCH, np.float32)
        m[BATCH - step % 3 :] = 0.0
        made.append(
            Batch(
                x.astype(network.input_dtype),
                random.standard_normal((BATCH, *network.output_shape)).astype(np.float32),
                m,
                random.random((BATCH, network.noise), np.float32),
            )
        )
    return [made[step % len(made)] for step in range(steps)]


class _Module(tf.Module):  # type: ignore[misc]
    """The least that trains: masked mean squared error, SGD with momentum."""

    def __init__(self, network: Network) -> None:
        super().__init__(name="agreement")
        self.network = network
        self.trained = [*network.federated, *network.personal]
        self.variables_ = [t.variable for t in self.trained]
        self.velocity = [
            None if t.statistic else tf.Variable(tf.zeros_like(t.variable)) for t in self.trained
        ]

    def raw(self, x: Any, step: Step) -> Any:
        if self.network.features is not None:
            x = self.network.features(x)
        return self.network.forward(x, step)

    def train(self, x: Any, y: Any, m: Any, lr: Any, r: Any | None = None) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            out, statistics = self.raw(x, Step(training=True, mask=m, noise=r))
            errors = tf.reshape(out - y, (BATCH, -1))
            each = tf.reduce_mean(errors * errors, axis=1)
            loss = tf.reduce_sum(m * each) / tf.reduce_sum(m)
        learned = [
            (t.variable, v)
            for t, v in zip(self.trained, self.velocity, strict=True)
            if v is not None
        ]
        gradients = tape.gradient(loss, [w for w, _ in learned])
        for (w, v), g in zip(learned, gradients, strict=True):
            v.assign(MOMENTUM * v + g)
            w.assign(w - lr * v)
        for trained, value in statistics:
            trained.variable.assign(value)
        return {"loss": tf.reshape(loss, (1,))}

    def infer(self, x: Any) -> dict[str, Any]:
        return {"output": self.raw(x, Step(training=False, mask=None, noise=None))[0]}

    def get_weights(self) -> dict[str, Any]:
        return {f"w{i}": w.read_value() + 0.0 for i, w in enumerate(self.variables_)}


def emit(network: Network) -> bytes:
    """A .tflite with builtin operators only."""
    module = _Module(network)

    def spec(*shape: int, dtype: Any = tf.float32) -> Any:
        return tf.TensorSpec(shape, dtype)

    x = spec(BATCH, *network.input_shape, dtype=tf.as_dtype(network.input_dtype))
    takes = [x, spec(BATCH, *network.output_shape), spec(BATCH), spec(1)]
    if network.noise:
        takes.append(spec(BATCH, network.noise))
    signatures = {
        "train": tf.function(module.train, autograph=False).get_concrete_function(*takes),
        "infer": tf.function(module.infer, autograph=False).get_concrete_function(x),
        "get_weights": tf.function(module.get_weights, autograph=False).get_concrete_function(),
    }
    with tempfile.TemporaryDirectory() as folder:
        save = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures=signatures, options=save)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.experimental_enable_resource_variables = True
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


def device_run(network: Network, batches: Sequence[Batch], lr: float) -> Run:
    """Train in the interpreter."""
    interpreter = Interpreter(model_content=emit(network), num_threads=1)
    train = interpreter.get_signature_runner("train")
    infer = interpreter.get_signature_runner("infer")
    get = interpreter.get_signature_runner("get_weights")
    losses = []
    for batch in batches:
        given = {"x": batch.x, "y": batch.y, "m": batch.m, "lr": np.array([lr], np.float32)}
        if network.noise:
            given["r"] = batch.r
        losses.append(float(train(**given)["loss"][0]))
    trained = [*network.federated, *network.personal]
    found = get()
    weights = [found[f"w{i}"] for i in range(len(trained))]
    return Run(losses, weights, [t.name for t in trained], infer(x=batches[0].x)["output"])


def keras_run(
    model: Any, network: Network, batches: Sequence[Batch], lr: float, options: dict[str, Any]
) -> Run:
    """Train the model itself; it is changed. Padding is left out of its batches."""
    drawn = tf.Variable(np.zeros((BATCH, network.noise), np.float32), trainable=False)
    kept_mask = tf.Variable(np.ones(BATCH, np.float32), trainable=False)
    _fix_noise(model, lambda: tf.boolean_mask(drawn, kept_mask > 0))
    learned = list(model.trainable_variables)
    velocity = [tf.Variable(tf.zeros_like(v.value)) for v in learned]

    @tf.function(autograph=False)
    def step(x: Any, y: Any, m: Any) -> Any:
        with tf.GradientTape() as tape:
            out = model(tf.boolean_mask(x, m > 0), training=True)
            loss = tf.reduce_mean((out - tf.boolean_mask(y, m > 0)) ** 2)
        for w, v, g in zip(
            learned, velocity, tape.gradient(loss, [w.value for w in learned]), strict=True
        ):
            v.assign(MOMENTUM * v + g)
            w.assign(w - lr * v)
        return loss

    losses = []
    for batch in batches:
        drawn.assign(batch.r)
        kept_mask.assign(batch.m)
        losses.append(float(step(*(tf.constant(a) for a in (batch.x, batch.y, batch.m)))))
    after = _in_order(model, options)
    count = len(network.federated) + len(network.personal)
    assert len(after) == count, [v.path for v in after]
    return Run(
        losses,
        [np.asarray(v) for v in after],
        [v.path for v in after],
        np.asarray(model(batches[0].x, training=False)),
    )


def _in_order(model: Any, options: dict[str, Any]) -> list[Any]:
    """Keras's variables that train, as `model.weights` has them; personal ones last."""
    shared, kept = [], []
    seen: set[int] = set()
    for layer in _leaves(model):
        normal = isinstance(layer, k.BatchNormalization)
        local = normal and options["batch_norm"] == "local" and layer.trainable
        own = layer.name in options["personal"] or local
        for v in layer.weights:
            moves = normal and layer.trainable and options["batch_norm"] != "frozen"
            if (v.trainable or (moves and "moving" in v.name)) and id(v) not in seen:
                seen.add(id(v))
                (kept if own else shared).append(v)
    return [*shared, *kept]


def _leaves(model: Any) -> list[Any]:
    found: list[Any] = []
    for layer in model.layers:
        found += _leaves(layer) if isinstance(layer, keras.Model) else [layer]
    return found


def _fix_noise(model: Any, noise: Callable[[], Any]) -> None:
    """Let the random layers of a model (called once each) take given uniform numbers."""
    start = 0
    for layer in _leaves(model):
        if isinstance(layer, k.MultiHeadAttention):
            layer = layer._dropout_layer
        call = _CALLS.get(type(layer))
        if call is None or not getattr(layer, "rate", getattr(layer, "stddev", 0.0)):
            continue
        layer.call = _Fixed(call, layer, noise, start)
        start = layer.call


class _Fixed:
    """A random layer's call on numbers from `start` on; a chain, since sizes are known late."""

    def __init__(self, call: Any, layer: Any, noise: Callable[[], Any], before: Any) -> None:
        self.call, self.layer, self.noise, self.before = call, layer, noise, before
        self.end = 0

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        start = self.before.end if isinstance(self.before, _Fixed) else 0
        if not training:
            return inputs

        def uniform(shape: Sequence[int]) -> Any:
            count = math.prod(shape)
            self.end = start + count
            return tf.reshape(self.noise()[:, start : start + count], (-1, *shape))

        return self.call(self.layer, inputs, uniform)


def _dropout(layer: Any, x: Any, uniform: Any) -> Any:
    shape = tuple(x.shape[1:])
    if getattr(layer, "noise_shape", None):
        shape = tuple(
            n if wanted is None else wanted
            for n, wanted in zip(shape, layer.noise_shape[1:], strict=True)
        )
    return tf.where(uniform(shape) >= layer.rate, x / (1 - layer.rate), 0.0)


def _spatial(layer: Any, x: Any, uniform: Any) -> Any:
    shape = (*(1 for _ in x.shape[1:-1]), x.shape[-1])
    return tf.where(uniform(shape) >= layer.rate, x / (1 - layer.rate), 0.0)


def _normal(x: Any, uniform: Any) -> Any:
    u = uniform((2, *x.shape[1:]))
    return tf.sqrt(-2 * tf.math.log(1 - u[:, 0])) * tf.cos(2 * math.pi * u[:, 1])


_CALLS = {
    k.Dropout: _dropout,
    k.SpatialDropout1D: _spatial,
    k.SpatialDropout2D: _spatial,
    k.GaussianNoise: lambda layer, x, uniform: x + layer.stddev * _normal(x, uniform),
    k.GaussianDropout: lambda layer, x, uniform: (
        x * (1 + (layer.rate / (1 - layer.rate)) ** 0.5 * _normal(x, uniform))
    ),
}

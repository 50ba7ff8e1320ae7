"""What training must give, found another way: Keras's own layers and gradients, in float64.

It shares nothing with the device's graph but the given model. Padding is left out of its batches
instead of being masked, the losses are those of the final probabilities, and the optimisers are
written once more.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from qflare.authoring.module import Training
from qflare.authoring.network import Network, Trained
from qflare.authoring.randomness import take_numbers
from qflare.faults import LocalFault

Floats = NDArray[np.float64]
_STATISTIC_FLOOR: Final = "moving_variance"


@dataclass(frozen=True)
class Outcome:
    """What a training run came to. Weights are those of `network`: federated, then personal."""

    losses: list[float]
    weights: list[Floats]
    steepest: list[Floats]  # the largest size of each gradient, element by element
    output: Floats  # of `infer`, (batch, *out)
    loss_sum: float
    examples: Floats  # of `evaluate`
    correct: Floats
    margin: float  # by how much the closest decision was taken


class Oracle:
    """The given model once more; `run` trains it from given weights."""

    def __init__(self, model: Any, network: Network, training: Training) -> None:
        self._network, self._training = network, training
        self._all = (*network.federated, *network.personal)
        self._copy = _doubled(model)
        self._noise: list[Any] = [None]
        take_numbers(self._copy, lambda: self._noise[0])
        if network.batch_norm == "frozen":
            _freeze_statistics(self._copy)
        places = _match(self._all, model)
        self._variables = [self._copy.weights[place] for place in places]
        self._learned = [i for i, t in enumerate(self._all) if not t.statistic]
        self._start = [np.asarray(v, np.float64) for v in self._copy.weights]
        self._gradients = tf.function(self._traced, autograph=False, reduce_retracing=False)

    def run(
        self,
        weights: Sequence[NDArray[np.float32]],
        inputs: dict[str, Any],
        learning_rate: float,
        steps: int,
        disturbance: float = 0.0,
    ) -> Outcome:
        """Train `steps` times on one batch, then evaluate it.

        A disturbance is relative: on the weights, and on every gradient. What it changes in the
        outcome is what rounding may change on a device.
        """
        for variable, value in zip(self._copy.weights, self._start, strict=True):
            variable.assign(value)
        self._assign(weights)
        probabilities = self._gives_probabilities(inputs["x"])
        anchor = self._values()
        if disturbance:
            self._assign([_disturbed(w, disturbance) for w in weights])
        rule = _RULES[self._training.optimiser.name](self._training.optimiser)
        steepest = [np.zeros(w.shape) for w in anchor]
        losses = []
        for _ in range(steps):
            loss, gradients = self._step(inputs, probabilities)
            losses.append(loss)
            values = self._values()
            for i, gradient in zip(self._learned, gradients, strict=True):
                steepest[i] = np.maximum(steepest[i], np.abs(gradient))
                total = gradient
                if i < len(self._network.federated):
                    total = total + inputs["mu"][0] * (values[i] - anchor[i])
                if disturbance:
                    size = np.abs(total).max(initial=0) + 1e-3
                    total = total + disturbance * size * _waves(total.shape)
                self._variables[i].assign(values[i] - rule(i, total, learning_rate))
        return self._outcome(losses, steepest, inputs, probabilities)

    def _values(self) -> list[Floats]:
        return [np.asarray(v, np.float64) for v in self._variables]

    def _assign(self, weights: Sequence[Any]) -> None:
        for variable, value in zip(self._variables, weights, strict=True):
            variable.assign(np.asarray(value, np.float64))

    def _step(self, inputs: dict[str, Any], probabilities: bool) -> tuple[float, list[Floats]]:
        """The loss, and the gradients of what is learned; statistics are moved."""
        counted = np.flatnonzero(inputs["m"] > 0)
        total = float(inputs["m"].sum())
        shares = inputs["m"][counted].astype(np.float64)
        if self._training.class_weights:
            shares = shares * np.asarray(self._training.class_weights)[inputs["y"][counted]]
        x, target = inputs["x"][counted], self._target(inputs)[counted]
        noise = inputs["r"][counted] if "r" in inputs else np.zeros((len(counted), 0), np.float32)
        flag = tf.constant(probabilities)
        if not self._training.private:
            loss, gradients = self._gradients(x, target, shares / total, noise, flag)
            return float(loss), [np.asarray(g) for g in gradients]
        clip, z = float(inputs["clip"][0]), inputs["z"].astype(np.float64)
        sums = [np.zeros(self._variables[i].shape) for i in self._learned]
        losses = 0.0
        for i in range(len(counted)):
            one = slice(i, i + 1)
            loss, gradients = self._gradients(x[one], target[one], shares[one], noise[one], flag)
            norm = math.sqrt(sum(float(np.sum(np.square(g))) for g in gradients))
            factor = min(1.0, clip / norm) if norm > 0 else 1.0
            sums = [s + factor * np.asarray(g) for s, g in zip(sums, gradients, strict=True)]
            losses += float(loss)
        ends = np.cumsum([s.size for s in sums])
        parts = np.split(z, ends[:-1])
        return losses / total, [
            (s + part.reshape(s.shape)) / total for s, part in zip(sums, parts, strict=True)
        ]

    def _target(self, inputs: dict[str, Any]) -> Any:
        return inputs["x"] if self._training.task == "autoencoder" else inputs["y"]

    def _traced(self, x: Any, target: Any, share: Any, noise: Any, probabilities: Any) -> Any:
        self._noise[0] = noise
        learned = [self._variables[i].value for i in self._learned]
        x = tf.cast(x, tf.float64) if x.dtype.is_floating else x
        with tf.GradientTape() as tape:
            output = tf.cast(self._copy(x, training=True), tf.float64)
            loss = tf.reduce_sum(self._losses(output, target, probabilities) * share)
        gradients = tape.gradient(loss, learned, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, [tf.convert_to_tensor(g) for g in gradients]  # an embedding's is sparse

    def _losses(self, output: Any, target: Any, probabilities: Any) -> Any:
        """The loss of each example, from what the model itself gives."""
        name = self._training.loss
        if name == "cross_entropy":
            chances = tf.cond(probabilities, lambda: output, lambda: tf.nn.softmax(output))
            return -tf.math.log(tf.gather(chances, target, axis=1, batch_dims=1))
        target = tf.cast(target, tf.float64)
        if name == "binary_cross_entropy":
            chances = tf.cond(probabilities, lambda: output, lambda: tf.sigmoid(output))
            each = -target * tf.math.log(chances) - (1 - target) * tf.math.log(1 - chances)
        else:
            off = tf.abs(output - target)
            far = tf.where(off <= 1.0, 0.5 * off**2, off - 0.5)
            each = {"mse": off**2, "mae": off, "huber": far}[name]
        return tf.reduce_mean(tf.reshape(each, (tf.shape(each)[0], -1)), axis=1)

    def _predict(self, x: Any) -> Any:
        given = x.astype(np.float64) if x.dtype == np.float32 else x
        return np.asarray(self._copy(given, training=False), np.float64)

    def _gives_probabilities(self, x: Any) -> bool:
        """Whether the model ends in its softmax or sigmoid; by what it gives for any weights."""
        if self._training.task not in ("classification", "multilabel"):
            return False
        kept = self._values()
        found = []
        for factor in (1.0, -1.0, 10.0):
            self._assign([factor * w for w in kept])
            output = self._predict(x)
            likely = bool(np.all((output >= 0) & (output <= 1)))
            if self._training.task == "classification":
                likely = likely and bool(np.allclose(output.sum(axis=1), 1.0, atol=1e-5))
            found.append(likely or not np.isfinite(output).all())
        self._assign(kept)
        return all(found)

    def _outcome(
        self,
        losses: list[float],
        steepest: list[Floats],
        inputs: dict[str, Any],
        probabilities: bool,
    ) -> Outcome:
        weights = self._values()
        for trained, variable in zip(self._all, self._variables, strict=True):
            if trained.statistic and trained.name.endswith(_STATISTIC_FLOOR):
                variable.assign(np.maximum(np.asarray(variable), 0.0))
        output = self._predict(inputs["x"])
        m, target = inputs["m"].astype(np.float64), self._target(inputs)
        shares = m
        if self._training.class_weights:
            shares = m * np.asarray(self._training.class_weights)[target]
        each = self._losses(tf.constant(output), tf.constant(target), tf.constant(probabilities))
        if self._training.task == "classification":
            if not probabilities:
                output = np.asarray(tf.nn.softmax(output))
            one_hot = np.eye(output.shape[1])[target]
            hits = m * (output.argmax(axis=1) == target)
            examples, correct = m @ one_hot, hits @ one_hot
            ranked = np.sort(output, axis=1)
            margin = float(np.min(ranked[:, -1] - ranked[:, -2]))
        elif self._training.task == "multilabel":
            if not probabilities:
                output = 1 / (1 + np.exp(-output))
            right = ((output > 0.5) == (target > 0.5)).reshape(len(m), -1).all(axis=1)
            examples, correct = np.array([m.sum()]), np.array([(m * right).sum()])
            margin = float(np.abs(output - 0.5).min())
        else:
            examples, correct, margin = np.array([m.sum()]), np.zeros(1), 1.0
        loss_sum = float(np.sum(np.asarray(each) * shares))
        return Outcome(losses, weights, steepest, output, loss_sum, examples, correct, margin)


Rule = Callable[[int, Floats, float], Floats]


def _sgd(_: Any) -> Rule:
    return lambda _i, gradient, rate: rate * gradient


def _momentum(optimiser: Any) -> Rule:
    velocity: dict[int, Any] = {}

    def move(i: int, gradient: Floats, rate: float) -> Floats:
        velocity[i] = optimiser.momentum * velocity.get(i, 0.0) + gradient
        return np.asarray(rate * velocity[i])

    return move


def _adam(optimiser: Any) -> Rule:
    first: dict[int, Any] = {}
    second: dict[int, Any] = {}
    times: dict[int, int] = {}

    def move(i: int, gradient: Floats, rate: float) -> Floats:
        t = times[i] = times.get(i, 0) + 1
        b1, b2 = optimiser.beta1, optimiser.beta2
        first[i] = b1 * first.get(i, 0.0) + (1 - b1) * gradient
        second[i] = b2 * second.get(i, 0.0) + (1 - b2) * gradient**2
        scaled = rate * math.sqrt(1 - b2**t) / (1 - b1**t)
        return np.asarray(scaled * first[i] / (np.sqrt(second[i]) + optimiser.epsilon))

    return move


_RULES: Final = {"sgd": _sgd, "momentum": _momentum, "adam": _adam}


def _waves(shape: tuple[int, ...]) -> Floats:
    return np.sin(1.7 * np.arange(math.prod(shape), dtype=np.float64)).reshape(shape)


def _disturbed(weight: Any, size: float) -> Floats:
    return np.asarray(weight, np.float64) * (1.0 + size * _waves(weight.shape))


def _doubled(model: Any) -> Any:
    """A copy of the model that computes in float64, with the same weights."""
    if not isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0])  # it may be of a class of its own
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        copy = type(model).from_config(_in_float64(model.get_config()))
    finally:
        keras.config.set_floatx(before)
    copy.set_weights([np.asarray(v, np.float64) for v in model.weights])
    return copy


def _in_float64(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: "float64"
            if key in ("dtype", "name") and value == "float32"
            else _in_float64(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_in_float64(value) for value in config)
    return config


def leaves(model: Any) -> list[Any]:
    """The layers of a model, nested ones laid flat."""
    found: list[Any] = []
    for layer in model.layers:
        found += leaves(layer) if isinstance(layer, keras.Model) else [layer]
    return found


def _freeze_statistics(model: Any) -> None:
    for layer in leaves(model):
        if isinstance(layer, keras.layers.BatchNormalization):

            def still(
                inputs: Any, training: Any = None, mask: Any = None, layer: Any = layer
            ) -> Any:
                del training, mask
                return type(layer).call(layer, inputs, training=False)

            layer.call = still


def _match(trained: Sequence[Trained], model: Any) -> list[int]:
    """The place in `model.weights` of each trained tensor: by name, shape and initial value.

    Places are what a model and its copy share; names inside a copy's wrappers may differ.
    """
    place = {id(variable): i for i, variable in enumerate(model.weights)}
    free: dict[int, tuple[set[str], Any]] = {}
    for layer in leaves(model):
        for variable in layer.weights:
            _, _, rest = variable.path.partition(f"{layer.name}/")
            names = {f"{layer.name}/{variable.name}", f"{layer.name}/{rest}", variable.path}
            free[place[id(variable)]] = (names, np.asarray(variable, np.float32))
    found = []
    for tensor in trained:
        wanted = tensor.variable.numpy()
        for i, (names, value) in free.items():
            alike = tensor.name in names or tensor.name.rpartition("_")[0] in names
            if alike and value.shape == wanted.shape and np.array_equal(value, wanted):
                found.append(i)
                del free[i]
                break
        else:
            raise LocalFault(
                f"the weight {tensor.name} can't be told from others in the model; give its layer "
                "a name of its own"
            )
    return found

"""A network as a TensorFlow module with the signatures that a device calls.

Every input has at least shape (1,): LiteRT on aarch64 crashes on a scalar one. The batch is fixed,
and `m` says how much each example counts, 0 for padding. The names of inputs and outputs are the
contract of `qflare.host.model`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tensorflow as tf

from qflare.authoring.losses import LOSSES
from qflare.authoring.network import Network, Step, Tensor, Trained
from qflare.authoring.optimisers import make_rule
from qflare.authoring.private import clipped_sum, noised
from qflare.host.model.manifest import LossName, Optimiser, Task

_LEAST: Final = 1e-9  # a batch that doesn't count at all divides 0 by this


@dataclass(frozen=True)
class Training:
    """How a network is to learn."""

    task: Task
    loss: LossName
    class_weights: tuple[float, ...]
    optimiser: Optimiser
    private: bool


class TrainableModule(tf.Module):  # type: ignore[misc]
    """The variables, and `signatures()` over them."""

    def __init__(self, network: Network, training: Training) -> None:
        super().__init__(name="model")
        self._network, self._training = network, training
        self._loss = LOSSES[training.loss]
        self._all = (*network.federated, *network.personal)
        self._learned = [t for t in self._all if not t.statistic]
        # Attached one by one: variables reachable only through another object lose their initial
        # values in conversion, silently.
        self.weights = [t.variable for t in self._all]
        self.anchors = [
            tf.Variable(t.variable.numpy(), trainable=False, name=f"anchor{i}")
            for i, t in enumerate(network.federated)
            if not t.statistic
        ]
        self._rule = make_rule(training.optimiser, [t.variable.shape for t in self._learned])
        self.state = self._rule.state

    def signatures(self) -> dict[str, Any]:
        """Concrete functions by signature name."""
        batched = self._batch_specs()
        one = {name: _spec(name, 1) for name in ("lr", "mu")}
        more = {}
        if self._network.noise:
            more["r"] = _spec("r", self._network.batch, self._network.noise)
        if self._training.private:
            size = sum(t.variable.shape.num_elements() for t in self._all)
            more |= {"clip": _spec("clip", 1), "z": _spec("z", size)}
        tensors = {key: _spec(key, *t.variable.shape) for key, t in self._keys().items()}
        found = {
            "train": _concrete(self._train, **batched, **one, **more),
            "evaluate": _concrete(self._evaluate, **batched),
            "infer": _concrete(self._infer, x=self._raw_spec()),
            "get_weights": _concrete(self._get_weights),
            "set_weights": _concrete(self._set_weights, **tensors),
            "reset": _concrete(self._reset),
        }
        if self._network.features:
            found["features"] = _concrete(self._features, x=self._raw_spec())
        return found

    def _raw_spec(self) -> Any:
        dtype = tf.int32 if self._network.input_dtype == "int32" else tf.float32
        return _spec("x", self._network.batch, *self._network.input_shape, dtype=dtype)

    def _batch_specs(self) -> dict[str, Any]:
        network, specs = (
            self._network,
            {"x": self._raw_spec(), "m": _spec("m", self._network.batch)},
        )
        if network.features_shape is not None:
            specs["x"] = _spec("x", network.batch, *network.features_shape)
        if self._training.task == "classification":
            specs["y"] = _spec("y", network.batch, dtype=tf.int32)
        elif self._training.task != "autoencoder":
            specs["y"] = _spec("y", network.batch, *network.output_shape)
        return specs

    def _keys(self) -> dict[str, Trained]:
        """Federated tensors as w0, w1, …, personal ones as p0, p1, …"""
        network = self._network
        return {f"w{i}": t for i, t in enumerate(network.federated)} | {
            f"p{i}": t for i, t in enumerate(network.personal)
        }

    def _train(self, **given: Tensor) -> dict[str, Tensor]:
        x, m, lr, mu = (given[key] for key in ("x", "m", "lr", "mu"))
        total = tf.maximum(tf.reduce_sum(m), _LEAST)
        weights = {t.name: t.variable.read_value() for t in self._learned}
        if self._training.private:
            loss, gradients = self._clipped_gradients(given, total)
        else:
            share = self._importance(m, given.get("y")) / total
            step = Step(training=True, mask=m, noise=given.get("r"))
            loss, gradients, statistics = self._gradients(x, self._target(given), share, step)
            for trained, value in statistics:
                trained.variable.assign(value)
        for i, anchor in enumerate(self.anchors):  # federated tensors come first
            w = weights[self._learned[i].name]
            gradients[i] = gradients[i] + mu * (w - anchor)
        new = self._rule.apply(list(weights.values()), gradients, lr)
        for trained, value in zip(self._learned, new, strict=True):
            trained.variable.assign(value)
        return {"loss": tf.reshape(loss, (1,))}

    def _gradients(
        self, x: Tensor, target: Tensor, share: Tensor, step: Step
    ) -> tuple[Tensor, list[Tensor], list[tuple[Trained, Tensor]]]:
        """The sum of share times loss, and its gradient by every learned tensor."""
        variables = [t.variable for t in self._learned]
        with tf.GradientTape() as tape:
            raw, statistics = self._network.forward(x, step)
        column = tf.reshape(share, (-1, *(1,) * (len(raw.shape) - 1)))
        slopes = self._loss.slopes(raw, target) * column
        gradients = tape.gradient(
            raw, variables, slopes, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        loss = tf.reduce_sum(self._loss.values(raw, target) * share)
        return loss, list(gradients), statistics

    def _clipped_gradients(
        self, given: dict[str, Tensor], total: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """As `_gradients`, each example's clipped, their sum with noise, over the examples."""
        target, shares = self._target(given), self._importance(given["m"], given.get("y"))

        def one(i: Tensor) -> tuple[Tensor, list[Tensor]]:
            x, y, share = (_row(values, i) for values in (given["x"], target, shares))
            noise = _row(given["r"], i) if "r" in given else None
            step = Step(training=True, mask=tf.ones((1,)), noise=noise)
            loss, gradients, _ = self._gradients(x, y, share, step)
            return tf.reshape(loss, (1,)), gradients

        shapes = [t.variable.shape for t in self._learned]
        loss, sums = clipped_sum(one, self._network.batch, given["clip"], shapes)
        return loss / total, [s / total for s in noised(sums, given["z"])]

    def _importance(self, m: Tensor, y: Tensor | None) -> Tensor:
        """The weight of each example's loss, (batch,)."""
        if not self._training.class_weights:
            return m
        return m * tf.gather(tf.constant(self._training.class_weights, tf.float32), y)

    def _target(self, given: dict[str, Tensor]) -> Tensor:
        return given["x"] if self._training.task == "autoencoder" else given["y"]

    def _evaluate(self, **given: Tensor) -> dict[str, Tensor]:
        m, target = given["m"], self._target(given)
        raw, _ = self._network.forward(given["x"], Step(training=False, mask=None, noise=None))
        share = self._importance(m, given.get("y"))
        loss_sum = tf.reduce_sum(self._loss.values(raw, target) * share)
        examples, correct = self._count(raw, target, m)
        return {
            "loss_sum": tf.reshape(loss_sum, (1,)),
            "examples": examples,
            "correct": correct,
        }

    def _count(self, raw: Tensor, target: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Examples, and those that are right: of each class, or of all, (1,)."""
        match self._training.task:
            case "classification":
                one_hot = tf.one_hot(target, raw.shape[1])
                right = tf.equal(tf.argmax(raw, axis=1, output_type=tf.int32), target)
                hits = m * tf.cast(right, tf.float32)
                return tuple(
                    tf.reduce_sum(one_hot * tf.reshape(n, (-1, 1)), axis=0) for n in (m, hits)
                )
            case "multilabel":
                same = tf.equal(raw > 0.0, target > 0.5)
                wrong = tf.reshape(1.0 - tf.cast(same, tf.float32), (raw.shape[0], -1))
                hits = m * (1.0 - tf.reduce_max(wrong, axis=1))
                return tuple(tf.reshape(tf.reduce_sum(n), (1,)) for n in (m, hits))
            case _:
                return tf.reshape(tf.reduce_sum(m), (1,)), tf.zeros((1,))

    def _infer(self, x: Tensor) -> dict[str, Tensor]:
        network = self._network
        seen = network.features(x) if network.features else x
        raw, _ = network.forward(seen, Step(training=False, mask=None, noise=None))
        match self._training.task:
            case "classification":
                raw = tf.nn.softmax(raw)
            case "multilabel":
                raw = tf.sigmoid(raw)
        return {"output": tf.identity(raw)}

    def _features(self, x: Tensor) -> dict[str, Tensor]:
        assert self._network.features is not None  # noqa: S101
        return {"f": tf.identity(self._network.features(x))}

    def _get_weights(self) -> dict[str, Tensor]:
        # Adding 0 keeps the output from being the variable's own memory.
        return {key: t.variable.read_value() + 0.0 for key, t in self._keys().items()}

    def _set_weights(self, **weights: Tensor) -> dict[str, Tensor]:
        for key, trained in self._keys().items():
            trained.variable.assign(weights[key])
        federated = [k for k, t in self._keys().items() if k.startswith("w") and not t.statistic]
        for key, anchor in zip(federated, self.anchors, strict=True):
            anchor.assign(weights[key])
        return {"ok": tf.ones((1,))}

    def _reset(self) -> dict[str, Tensor]:
        for variable in self.state:
            variable.assign(tf.zeros(variable.shape))
        return {"ok": tf.ones((1,))}


def _spec(name: str, *shape: int, dtype: Any = np.float32) -> Any:
    return tf.TensorSpec(shape, dtype, name=name)


def _row(values: Tensor, i: Tensor) -> Tensor:
    """Row i, int32 (1,), of a tensor, as a batch of one."""
    start = tf.concat((i, tf.zeros((len(values.shape) - 1,), tf.int32)), axis=0)
    found = tf.slice(values, start, (1, *values.shape[1:]))
    return tf.ensure_shape(found, (1, *values.shape[1:]))


def _concrete(call: Callable[..., Any], **specs: Any) -> Any:
    return tf.function(call, autograph=False).get_concrete_function(**specs)

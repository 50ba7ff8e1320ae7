"""One hidden layer, with its gradients written out, in every form that a model file can have.

It is written by hand from the description of the signatures, and shares nothing with
`qflare.authoring`: where the two and the trainer agree, the description was clear. Only the
developer's machine imports this module; it needs TensorFlow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tensorflow as tf

Tensor = Any  # TensorFlow ships no usable types

INPUTS: Final = 6
DROPPED: Final = 0.25  # the rate of dropout
MOMENTUM: Final = 0.9


@dataclass(frozen=True, slots=True)
class Form:
    """What a tiny model is."""

    name: str
    task: str
    outputs: int
    hidden: int = 8
    batch: int = 8
    dropout: bool = False
    personal: bool = False  # the output layer never leaves the device
    private: bool = False
    prefix: int = 0  # outputs of a frozen layer in front, whose features can be kept

    @property
    def label(self) -> tuple[tuple[int, ...], Any] | None:
        """Shape and type of a batch's labels."""
        if self.task == "classification":
            return (self.batch,), tf.int32
        return None if self.task == "autoencoder" else ((self.batch, self.outputs), tf.float32)


FORMS: Final = (
    Form("classifier", "classification", 3, dropout=True, personal=True),
    Form("multilabel", "multilabel", 3),
    Form("regression", "regression", 2),
    Form("autoencoder", "autoencoder", INPUTS, hidden=4),
    Form("private", "classification", 3, private=True),
    Form("features", "classification", 3, prefix=5),
)


class Tiny(tf.Module):  # type: ignore[misc]
    """The variables, and `signatures()` over them."""

    def __init__(self, form: Form) -> None:
        super().__init__(name="tiny")
        self.form = form
        random = np.random.Generator(np.random.PCG64(1))

        def variable(name: str, *shape: int) -> Tensor:
            values = random.standard_normal(shape) * 0.4
            return tf.Variable(values.astype(np.float32), name=name)

        self.frozen = random.standard_normal((INPUTS, form.prefix)).astype(np.float32)
        self.weights = [
            variable("hidden_kernel", form.prefix or INPUTS, form.hidden),
            variable("hidden_bias", form.hidden),
            variable("output_kernel", form.hidden, form.outputs),
            variable("output_bias", form.outputs),
        ]
        self.names = ["hidden/kernel", "hidden/bias", "output/kernel", "output/bias"]
        self.federated = 2 if form.personal else 4
        self.velocity = [
            tf.Variable(np.zeros(w.shape, np.float32), name=f"velocity_{i}")
            for i, w in enumerate(self.weights)
        ]
        self.anchors = [
            tf.Variable(w.numpy(), name=f"anchor_{i}")
            for i, w in enumerate(self.weights[: self.federated])
        ]
        self.keys = [
            f"w{i}" if i < self.federated else f"p{i - self.federated}"
            for i in range(len(self.weights))
        ]

    @property
    def size(self) -> int:
        return sum(int(np.prod(w.shape)) for w in self.weights)

    def _forward(self, x: Tensor, r: Tensor = None) -> tuple[Tensor, Tensor, Tensor]:
        """The slope and the output of the hidden layer, and the raw output."""
        kernel, bias, out_kernel, out_bias = (tf.convert_to_tensor(w) for w in self.weights)
        linear = tf.matmul(x, kernel) + bias
        slope = tf.cast(linear > 0.0, tf.float32)
        if r is not None:
            slope *= tf.cast(r >= DROPPED, tf.float32) / (1 - DROPPED)
        hidden = linear * slope
        return slope, hidden, tf.matmul(hidden, out_kernel) + out_bias

    def _losses(self, raw: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each example, and its gradient by the raw output."""
        form = self.form
        if form.task == "classification":
            wanted, log = tf.one_hot(y, form.outputs), tf.nn.log_softmax(raw)
            return -tf.reduce_sum(wanted * log, axis=1), tf.exp(log) - wanted
        if form.task == "multilabel":
            loss = tf.maximum(raw, 0.0) - raw * y + tf.math.log(1.0 + tf.exp(-tf.abs(raw)))
            return tf.reduce_mean(loss, axis=1), (tf.sigmoid(raw) - y) / form.outputs
        error = raw - (x if form.task == "autoencoder" else y)
        return tf.reduce_mean(error * error, axis=1), 2.0 * error / form.outputs

    def train(self, x: Tensor, m: Tensor, lr: Tensor, mu: Tensor, **more: Tensor) -> Any:
        slope, hidden, raw = self._forward(x, more.get("r"))
        losses, d_raw = self._losses(raw, x, more.get("y"))
        d_linear = tf.matmul(d_raw, self.weights[2], transpose_b=True) * slope
        count = tf.reduce_sum(m)
        share = m
        if self.form.private:
            squares = _squares(d_raw) * (1.0 + _squares(hidden))
            squares += _squares(d_linear) * (1.0 + _squares(x))
            norm = tf.sqrt(tf.maximum(squares, 1e-20))
            share = m * tf.minimum(1.0, more["clip"] / norm)
        d_raw, d_linear = d_raw * share[:, None], d_linear * share[:, None]
        gradients = [
            tf.matmul(x, d_linear, transpose_a=True),
            tf.reduce_sum(d_linear, axis=0),
            tf.matmul(hidden, d_raw, transpose_a=True),
            tf.reduce_sum(d_raw, axis=0),
        ]
        start = 0
        updates = []
        for i, (w, g) in enumerate(zip(self.weights, gradients, strict=True)):
            if self.form.private:
                size = int(np.prod(w.shape))
                g += tf.reshape(tf.slice(more["z"], [start], [size]), w.shape)
                start += size
            g /= count
            updates.append(g + mu * (w - self.anchors[i]) if i < self.federated else g)
        for w, v, g in zip(self.weights, self.velocity, updates, strict=True):
            v.assign(MOMENTUM * v + g)
            w.assign(w - lr * v)
        return {"loss": tf.reshape(tf.reduce_sum(losses * m) / count, (1,))}

    def evaluate(self, x: Tensor, m: Tensor, y: Tensor = None) -> Any:
        raw = self._forward(x)[2]
        losses, _ = self._losses(raw, x, y)
        examples = tf.reshape(tf.reduce_sum(m), (1,))
        correct = examples * 0.0
        if self.form.task == "classification":
            wanted = tf.one_hot(y, self.form.outputs) * m[:, None]
            hits = tf.equal(tf.argmax(raw, axis=1, output_type=tf.int32), y)
            examples = tf.reduce_sum(wanted, axis=0)
            correct = tf.reduce_sum(wanted * tf.cast(hits, tf.float32)[:, None], axis=0)
        elif self.form.task == "multilabel":
            right = tf.cast(tf.equal(tf.cast(raw > 0.0, tf.float32), y), tf.float32)
            correct = tf.reshape(tf.reduce_sum(tf.reduce_min(right, axis=1) * m), (1,))
        return {
            "loss_sum": tf.reshape(tf.reduce_sum(losses * m), (1,)),
            "examples": examples,
            "correct": correct,
        }

    def features(self, x: Tensor) -> Any:
        return {"f": self._features(x)}

    def _features(self, x: Tensor) -> Tensor:
        return tf.nn.relu(tf.matmul(x, self.frozen)) if self.form.prefix else x

    def infer(self, x: Tensor) -> Any:
        raw = self._forward(self._features(x))[2]
        last = {"classification": tf.nn.softmax, "multilabel": tf.sigmoid}
        return {"output": last.get(self.form.task, tf.identity)(raw)}

    def get_weights(self) -> Any:
        return {k: w.read_value() + 0.0 for k, w in zip(self.keys, self.weights, strict=True)}

    def set_weights(self, **weights: Tensor) -> Any:
        for key, w in zip(self.keys, self.weights, strict=True):
            w.assign(weights[key])
        for key, anchor in zip(self.keys[: self.federated], self.anchors, strict=True):
            anchor.assign(weights[key])
        return {"ok": tf.ones((1,))}

    def reset(self) -> Any:
        for v in self.velocity:
            v.assign(tf.zeros(v.shape))
        return {"ok": tf.ones((1,))}

    def signatures(self) -> dict[str, Any]:
        """Concrete functions by signature name."""
        form, batch = self.form, self.form.batch
        raw = {"x": ((batch, INPUTS), tf.float32)}
        one = ((1,), tf.float32)
        examples: dict[str, Any] = {"x": ((batch, form.prefix or INPUTS), tf.float32)}
        if form.label:
            examples["y"] = form.label
        examples["m"] = ((batch,), tf.float32)
        train = examples | {"lr": one, "mu": one}
        if form.dropout:
            train["r"] = ((batch, form.hidden), tf.float32)
        if form.private:
            train |= {"clip": one, "z": ((self.size,), tf.float32)}
        weights = {
            k: (tuple(w.shape), tf.float32) for k, w in zip(self.keys, self.weights, strict=True)
        }
        found = {
            "train": _concrete(self.train, train),
            "evaluate": _concrete(self.evaluate, examples),
            "infer": _concrete(self.infer, raw),
            "get_weights": _concrete(self.get_weights, {}),
            "set_weights": _concrete(self.set_weights, weights),
            "reset": _concrete(self.reset, {}),
        }
        if form.prefix:
            found["features"] = _concrete(self.features, raw)
        return found


def _squares(rows: Tensor) -> Tensor:
    return tf.reduce_sum(rows * rows, axis=1)


def _concrete(call: Callable[..., Any], inputs: Mapping[str, tuple[tuple[int, ...], Any]]) -> Any:
    specs = {k: tf.TensorSpec(shape, dtype, name=k) for k, (shape, dtype) in inputs.items()}
    return tf.function(call, autograph=False).get_concrete_function(**specs)

"""The watch CNN as a TensorFlow module with the signatures that a device calls.

Three convolutions of stride 2 with ReLU, the mean over time, a linear layer, softmax and cross
entropy. Training is SGD with momentum. A mask marks which examples of a batch count, so that one
fixed batch size serves every data set. Every input has at least shape (1,): LiteRT on aarch64
crashes on a scalar one.

Only the developer's machine imports this module; it needs TensorFlow.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from qflare.zoo.watch_cnn.layers import Conv, Tensor, relu_gradient
from qflare.zoo.watch_cnn.shape import BATCH, CHANNELS, CLASSES, MOMENTUM, PARAMETERS, WINDOW

CONVS = (
    Conv(length=128, channels=6, kernel=6, filters=12),
    Conv(length=64, channels=12, kernel=8, filters=20),
    Conv(length=32, channels=20, kernel=8, filters=28),
)
STEPS_LEFT = CONVS[-1].out_length
FEATURES = CONVS[-1].filters


class WatchCnn(tf.Module):  # type: ignore[misc]
    """The variables, and `signatures()` over them."""

    def __init__(self, initial: list[np.ndarray[Any, np.dtype[np.float32]]]) -> None:
        super().__init__(name="watch_cnn")
        # Attached one by one: variables reachable only through another object lose their initial
        # values in conversion, silently.
        self.weights = [
            tf.Variable(w, name=name) for w, (name, _) in zip(initial, PARAMETERS, strict=True)
        ]
        self.velocity = [
            tf.Variable(np.zeros(shape, np.float32), name=f"velocity_{name}")
            for name, shape in PARAMETERS
        ]
        self.anchors = [
            tf.Variable(w, name=f"anchor_{name}")
            for w, (name, _) in zip(initial, PARAMETERS, strict=True)
        ]

    def _forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Patches and outputs of every convolution, the features, the logits."""
        patches, outputs, h = [], [], x
        for i, conv in enumerate(CONVS):
            patches.append(conv.patches(h, BATCH))
            kernel, bias = self.weights[2 * i : 2 * i + 2]
            h = conv.forward(patches[-1], kernel, bias)
            outputs.append(h)
        features = tf.reduce_mean(tf.reshape(h, (BATCH, STEPS_LEFT, FEATURES)), axis=1)
        logits = tf.matmul(features, self.weights[-2]) + self.weights[-1]
        return patches, outputs, features, logits

    def _gradients(self, x: Tensor, y: Tensor, m: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The mean loss over the examples that count, and its gradient by every parameter."""
        patches, outputs, features, logits = self._forward(x)
        wanted = tf.one_hot(y, CLASSES)
        share = m / tf.maximum(tf.reduce_sum(m), 1.0)
        loss = -tf.reduce_sum(tf.reduce_sum(wanted * tf.nn.log_softmax(logits), axis=1) * share)

        d_logits = (tf.nn.softmax(logits) - wanted) * tf.reshape(share, (BATCH, 1))
        reverse = [
            tf.reduce_sum(d_logits, axis=0),
            tf.matmul(features, d_logits, transpose_a=True),
        ]
        d_features = tf.matmul(d_logits, self.weights[-2], transpose_b=True)
        d_mean = tf.reshape(d_features / float(STEPS_LEFT), (BATCH, 1, FEATURES))
        d_out = tf.reshape(
            d_mean * tf.ones((BATCH, STEPS_LEFT, FEATURES)), (BATCH * STEPS_LEFT, FEATURES)
        )
        for i in reversed(range(len(CONVS))):
            d_linear = relu_gradient(d_out, outputs[i])
            reverse.append(tf.reduce_sum(d_linear, axis=0))
            reverse.append(tf.matmul(patches[i], d_linear, transpose_a=True))
            if i > 0:
                d_out = CONVS[i].backward_input(d_linear, self.weights[2 * i], BATCH)
        return loss, reverse[::-1]

    def _train(self, x: Tensor, y: Tensor, m: Tensor, lr: Tensor, mu: Tensor) -> dict[str, Tensor]:
        loss, gradients = self._gradients(x, y, m)
        for w, v, a, g in zip(self.weights, self.velocity, self.anchors, gradients, strict=True):
            v.assign(MOMENTUM * v + (g + mu * (w - a)))
            w.assign(w - lr * v)
        return {"loss": tf.reshape(loss, (1,))}

    def _evaluate(self, x: Tensor, y: Tensor, m: Tensor) -> dict[str, Tensor]:
        logits = self._forward(x)[-1]
        wanted = tf.one_hot(y, CLASSES)
        losses = -tf.reduce_sum(wanted * tf.nn.log_softmax(logits), axis=1)
        hits = tf.cast(tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), y), tf.float32)
        counted = wanted * tf.reshape(m, (BATCH, 1))
        return {
            "loss_sum": tf.reshape(tf.reduce_sum(losses * m), (1,)),
            "examples": tf.reduce_sum(counted, axis=0),
            "correct": tf.reduce_sum(counted * tf.reshape(hits, (BATCH, 1)), axis=0),
        }

    def _infer(self, x: Tensor) -> dict[str, Tensor]:
        return {"output": tf.nn.softmax(self._forward(x)[-1])}

    def _get_weights(self) -> dict[str, Tensor]:
        return {f"w{i}": w.read_value() + 0.0 for i, w in enumerate(self.weights)}

    def _set_weights(self, **weights: Tensor) -> dict[str, Tensor]:
        for i, (w, a) in enumerate(zip(self.weights, self.anchors, strict=True)):
            w.assign(weights[f"w{i}"])
            a.assign(weights[f"w{i}"])
        return {"ok": tf.ones((1,))}

    def _reset(self) -> dict[str, Tensor]:
        for v, (_, shape) in zip(self.velocity, PARAMETERS, strict=True):
            v.assign(tf.zeros(shape))
        return {"ok": tf.ones((1,))}

    def signatures(self) -> dict[str, Any]:
        """Concrete functions by signature name."""

        def spec(name: str, *shape: int, dtype: Any = tf.float32) -> tf.TensorSpec:
            return tf.TensorSpec(shape, dtype, name=name)

        x = spec("x", BATCH, WINDOW, CHANNELS)
        y, m = spec("y", BATCH, dtype=tf.int32), spec("m", BATCH)

        def concrete(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return tf.function(call).get_concrete_function(*args, **kwargs)

        return {
            "train": concrete(self._train, x, y, m, spec("lr", 1), spec("mu", 1)),
            "evaluate": concrete(self._evaluate, x, y, m),
            "infer": concrete(self._infer, x),
            "get_weights": concrete(self._get_weights),
            "set_weights": concrete(
                self._set_weights,
                **{f"w{i}": spec(f"w{i}", *shape) for i, (_, shape) in enumerate(PARAMETERS)},
            ),
            "reset": concrete(self._reset),
        }

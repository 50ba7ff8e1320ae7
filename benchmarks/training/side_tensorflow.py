"""TensorFlow at its best: one `tf.function` a step, batches already tensors, fused momentum."""

from typing import Any

import tensorflow as tf

from benchmarks.training.models import MOMENTUM, Model, batches, initial_weights, keras_model


def variants(model: Model) -> tuple[str, ...]:
    """The ways in which this framework can train `model`; the faster counts."""
    plain = ("tf.function", "tf.function, XLA")
    if model.name == "gru":
        return (*plain, *(f"{name}, unrolled" for name in plain))
    return plain


def version() -> str:
    """What is measured."""
    return f"tensorflow {tf.__version__}"


class Side:
    """The Keras model's own layers, differentiated by a GradientTape."""

    def __init__(self, model: Model, variant: str, threads: int, file: str) -> None:
        del file
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        self._initial = initial_weights(model)
        self._keras = keras_model(model, unroll="unrolled" in variant)
        self._variables = [v.value for v in self._keras.trainable_variables]
        self._velocity = [tf.Variable(tf.zeros_like(v)) for v in self._variables]
        self._batches = [
            (tf.constant(x), tf.constant(x if y is None else y)) for x, y in batches(model)
        ]
        rate, momentum = (tf.constant(v, tf.float32) for v in (model.learning_rate, MOMENTUM))

        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                out = self._keras(x, training=True)
                if model.classes:
                    each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=out)
                else:
                    each = tf.square(out - y)
                loss = tf.reduce_mean(each)
            gradients = tape.gradient(loss, self._variables)
            for w, v, g in zip(self._variables, self._velocity, gradients, strict=True):
                tf.raw_ops.ResourceApplyMomentum(
                    var=w.handle, accum=v.handle, lr=rate, grad=g, momentum=momentum
                )
            return loss

        self._step = tf.function(step, jit_compile="XLA" in variant)

    def reset(self) -> None:
        for w, v, value in zip(self._variables, self._velocity, self._initial, strict=True):
            w.assign(value)
            v.assign(tf.zeros_like(v))

    def step(self, i: int) -> float:
        x, y = self._batches[i % len(self._batches)]
        return float(self._step(x, y))

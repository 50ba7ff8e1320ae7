"""Make the files beside this one, as people make them who never heard of QFLARE.

    python -m tests.models.foreign.make

Needs TensorFlow; the tests that use the files need only an interpreter. The bytes may differ from
one TensorFlow to the next: what the tests look for doesn't.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import flatbuffers
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

FOLDER = Path(__file__).parent


def _spec(*shape: int) -> Any:
    return tf.TensorSpec(shape, tf.float32)


def _packed(graph: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(graph.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _concrete(function: Callable[[Any], Any], *shape: int) -> Any:
    made = tf.function(function).get_concrete_function(_spec(*shape))
    return tf.lite.TFLiteConverter.from_concrete_functions([made], tf.Module())


def no_signature() -> bytes:
    """Three matrix products, as a subgraph without a name."""
    random = np.random.Generator(np.random.PCG64(1))
    weights = [tf.constant(random.standard_normal(s), tf.float32) for s in ((4, 8), (8, 8), (8, 2))]

    def forward(x: Any) -> Any:
        for w in weights:
            x = tf.nn.relu(x @ w)
        return x

    graph = schema.ModelT.InitFromPackedBuf(_concrete(forward, 1, 4).convert(), 0)
    graph.signatureDefs = []
    return _packed(graph)


def newer_operator() -> bytes:
    """The same, in a version of its operator that no interpreter has yet."""
    graph = schema.ModelT.InitFromPackedBuf(no_signature(), 0)
    for code in graph.operatorCodes:
        code.version = 99
    return _packed(graph)


def flex_operator() -> bytes:
    converter = _concrete(lambda x: tf.linalg.inv(x[:, :2]) + 1.0, 2, 3)
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    return bytes(converter.convert())


def custom_operator() -> bytes:
    converter = _concrete(lambda x: tf.raw_ops.Digamma(x=x) + 1.0, 2, 3)
    converter.allow_custom_ops = True
    return bytes(converter.convert())


def quantised() -> bytes:
    """A convolution and a product, all in int8."""
    random = np.random.Generator(np.random.PCG64(2))
    kernel = tf.constant(random.standard_normal((3, 3, 1, 4)), tf.float32)
    dense = tf.constant(random.standard_normal((64, 3)), tf.float32)

    def forward(x: Any) -> Any:
        hidden = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME"))
        return tf.nn.softmax(tf.reshape(hidden, (1, 64)) @ dense)

    converter = _concrete(forward, 1, 8, 8, 1)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [random.standard_normal((1, 8, 8, 1)).astype(np.float32)] for _ in range(8)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


class Learner(tf.Module):  # type: ignore[misc]
    """Linear regression by gradient descent; the learning rate is a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(tf.fill((3, 1), 0.5))

    @tf.function(input_signature=[_spec(4, 3), _spec(4, 1), _spec()])
    def train(self, x: Any, y: Any, lr: Any) -> dict[str, Any]:
        error = x @ self.w - y
        self.w.assign_sub(lr * tf.matmul(x, error, transpose_a=True))
        return {"loss": tf.reduce_mean(error * error)}

    @tf.function(input_signature=[_spec(4, 3)])
    def infer(self, x: Any) -> dict[str, Any]:
        return {"y": x @ self.w}


def scalar_input() -> bytes:
    """As TensorFlow's own guide to training on devices makes it."""
    module = Learner()
    with tempfile.TemporaryDirectory() as folder:
        signatures = {"train": module.train, "infer": module.infer}
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.experimental_enable_resource_variables = True
        return bytes(converter.convert())


def uninitialised() -> bytes:
    """The same without what sets its variable: conversion can lose that without a word."""
    graph = schema.ModelT.InitFromPackedBuf(scalar_input(), 0)
    codes = [code.builtinCode for code in graph.operatorCodes]
    call_once = schema.BuiltinOperator.CALL_ONCE
    for subgraph in graph.subgraphs:
        subgraph.operators = [
            operator for operator in subgraph.operators if codes[operator.opcodeIndex] != call_once
        ]
    return _packed(graph)


def main() -> None:
    for make in (
        custom_operator,
        flex_operator,
        newer_operator,
        no_signature,
        quantised,
        scalar_input,
        uninitialised,
    ):
        (FOLDER / f"{make.__name__}.tflite").write_bytes(make())


if __name__ == "__main__":
    main()

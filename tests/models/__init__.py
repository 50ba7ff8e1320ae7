"""Tiny trainable models for tests that have no TensorFlow; `make.py` makes them."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_runtime.contract import ModelContract, parse_contract
from edge_runtime.sources.base import Samples
from edge_runtime.trainer import Trainer
from qflare.host.model import read_model

NAMES: Final = ("classifier", "multilabel", "regression", "autoencoder", "private", "features")
INPUTS: Final = 6


def tflite(name: str) -> bytes:
    return (Path(__file__).parent / f"{name}.tflite").read_bytes()


def contract(name: str) -> ModelContract:
    return parse_contract(tflite(name))


def trainer(name: str) -> Trainer:
    return Trainer(contract(name), tflite(name))


def start(name: str) -> Any:
    """The initial federated weights."""
    return np.frombuffer(read_model(tflite(name)).weights, "<f4")


def samples(name: str, size: int = 44, seed: int = 1) -> Samples:
    """Examples that the model can learn: five batches and a half."""
    random = np.random.Generator(np.random.PCG64(seed))
    x = random.standard_normal((size, INPUTS)).astype(np.float32)
    task = contract(name).manifest.task
    if task == "classification":
        return Samples(x, ((x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 0)).astype(np.int32))
    if task == "multilabel":
        return Samples(x, (x[:, :3] > 0).astype(np.float32))
    return Samples(x, x[:, :2] * 2 if task == "regression" else None)

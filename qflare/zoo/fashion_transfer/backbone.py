"""Train the backbone of fashion_transfer, on pictures that no simulated device holds.

    python -m qflare.zoo.fashion_transfer.backbone

It learns to tell five of the ten kinds apart, of the pictures from 25,000 on: the fleet has others,
and all ten kinds. backbone.npz holds its weights. Training again gives weights as good, but not
the same bits on another processor, so the file is kept and the model is built of it.
"""

import argparse
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from qflare.faults import LocalFault
from qflare.simulate.data import fashion
from qflare.zoo.fashion_transfer.model import WEIGHTS, make_backbone

KINDS = (1, 3, 5, 7, 9)  # trouser, dress, sandal, sneaker, ankle boot
FIRST = fashion.TRAIN + fashion.TEST  # the pictures before are the fleet's
MEAN, SCALE = 0.2860, 0.3530  # as in schema.toml
EPOCHS, BATCH, LEARNING_RATE, SEED = 4, 32, 0.02, 1


def examples(part: str, first: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Pictures of KINDS from number `first` on, scaled, and which of KINDS each is."""
    pictures, kinds = fashion.load(part)
    chosen = np.flatnonzero(np.isin(kinds, KINDS) & (np.arange(len(kinds)) >= first))
    x = (fashion.scaled(pictures[chosen]) - np.float32(MEAN)) / np.float32(SCALE)
    return x, np.searchsorted(KINDS, kinds[chosen]).astype(np.int32)


def train() -> tuple[keras.Model, float]:
    """The backbone, and its accuracy on pictures that neither it nor the fleet has seen."""
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    x, y = examples("train", FIRST)
    backbone = make_backbone()
    model = keras.Sequential([backbone, layers.Dense(len(KINDS), activation="softmax")])
    steps = EPOCHS * -(-len(x) // BATCH)
    model.compile(
        optimizer=keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps, alpha=0.05), momentum=0.9
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=2)
    _, accuracy = model.evaluate(*examples("t10k", fashion.TEST), verbose=0)
    return backbone, float(accuracy)


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(
        prog="python -m qflare.zoo.fashion_transfer.backbone",
        description="Train the backbone and write backbone.npz.",
    ).parse_args(argv)
    try:
        backbone, accuracy = train()
    except LocalFault as fault:
        print(f"backbone: {fault}", file=sys.stderr)
        return 1
    np.savez(WEIGHTS, **{f"w{i}": w for i, w in enumerate(backbone.get_weights())})
    print(f"accuracy {accuracy:.1%} on five kinds; wrote {WEIGHTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A head that learns ten kinds of clothes from what a frozen backbone sees of them.

The backbone learnt five of the kinds elsewhere (`backbone.py`). A device computes what it makes of
each picture once and keeps it, so that training costs no more than a linear layer.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers

WEIGHTS = Path(__file__).with_name("backbone.npz")


def make_model() -> keras.Model:
    """(28, 28, 1) pixels -> 10 probabilities; 15,690 parameters, and 4,800 that are frozen."""
    backbone = make_backbone()
    with np.load(WEIGHTS, allow_pickle=False) as file:
        backbone.set_weights([file[f"w{i}"] for i in range(len(file))])
    backbone.trainable = False
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            backbone,
            layers.Dense(
                10,
                activation="softmax",
                kernel_initializer=keras.initializers.GlorotUniform(seed=3),
                name="head",
            ),
        ]
    )


def make_backbone() -> keras.Model:
    """(28, 28, 1) pixels -> 1,568 features."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu", kernel_initializer=he(1)),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu", kernel_initializer=he(2)),
            layers.MaxPooling2D(2),
            layers.Flatten(),
        ],
        name="backbone",
    )


def he(seed: int) -> keras.Initializer:
    """He et al. 2015, arXiv:1502.01852; with a seed, so that every build starts the same."""
    return keras.initializers.HeNormal(seed=seed)

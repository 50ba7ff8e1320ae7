"""An autoencoder of nine sensors: what it can't give back is not normal."""

import keras
from keras import layers


def make_model() -> keras.Model:
    """(9,) readings -> the same; 461 parameters."""
    return keras.Sequential(
        [
            keras.Input((9,)),
            layers.Dense(16, activation="tanh", kernel_initializer=glorot(1)),
            layers.Dense(4, activation="tanh", kernel_initializer=glorot(2)),
            layers.Dense(16, activation="tanh", kernel_initializer=glorot(3)),
            layers.Dense(9, kernel_initializer=glorot(4)),
        ]
    )


def glorot(seed: int) -> keras.Initializer:
    """Glorot and Bengio 2010; with a seed, so that every build starts the same."""
    return keras.initializers.GlorotUniform(seed=seed)

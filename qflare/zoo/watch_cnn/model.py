"""A 1-D convolutional network that tells seven shoulder exercises apart from 2.56 s of motion."""

import keras
from keras import layers


def make_model() -> keras.Model:
    """(128, 6) samples -> 7 probabilities; 7,095 parameters."""
    return keras.Sequential(
        [
            keras.Input((128, 6)),
            convolution(12, 6, seed=1),
            convolution(20, 8, seed=2),
            convolution(28, 8, seed=3),
            layers.GlobalAveragePooling1D(),
            layers.Dense(
                7,
                activation="softmax",
                kernel_initializer=keras.initializers.GlorotUniform(seed=4),
            ),
        ]
    )


def convolution(filters: int, kernel: int, seed: int) -> layers.Layer:
    """A convolution that halves the length; seeded, so that every build starts the same."""
    return layers.Conv1D(
        filters,
        kernel,
        strides=2,
        padding="same",
        activation="relu",
        kernel_initializer=keras.initializers.HeNormal(seed=seed),
    )

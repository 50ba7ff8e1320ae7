"""A recurrent network that tells seven shoulder exercises apart from 2.56 s of motion.

Averages of four samples are enough for movements of the arm, and 32 steps of recurrence train fast
on a small device.
"""

import keras
from keras import layers


def make_model() -> keras.Model:
    """(128, 6) samples -> 7 probabilities; 4,071 parameters."""
    return keras.Sequential(
        [
            keras.Input((128, 6)),
            layers.AveragePooling1D(4),
            layers.GRU(
                32,
                kernel_initializer=keras.initializers.GlorotUniform(seed=1),
                recurrent_initializer=keras.initializers.Orthogonal(seed=2),
            ),
            layers.Dense(
                7,
                activation="softmax",
                kernel_initializer=keras.initializers.GlorotUniform(seed=3),
            ),
        ]
    )

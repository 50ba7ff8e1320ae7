"""What the watch CNN is, in plain numbers: nothing here needs TensorFlow."""

from typing import Final

NAME: Final = "watch_cnn"
VERSION: Final = 1
WINDOW: Final = 128  # samples, 2.56 s at 50 Hz
CHANNELS: Final = 6
RATE_HZ: Final = 50
CHANNEL_NAMES: Final = ("ax", "ay", "az", "wx", "wy", "wz")
CHANNEL_UNITS: Final = ("g", "g", "g", "rad/s", "rad/s", "rad/s")
# Mean and standard deviation of each channel over the training parts of all recordings, as
# `qflare.simulate.data.watch.channel_statistics` finds them. Constants of the model, so that a
# device needs nobody else's data.
MEAN: Final = (-0.00833, 0.37553, -0.14959, 0.02423, -0.00381, 0.00992)
SCALE: Final = (0.89992, 0.49119, 0.53620, 0.97405, 2.49000, 1.03206)
CLASS_NAMES: Final = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
CLASSES: Final = len(CLASS_NAMES)
BATCH: Final = 16
MOMENTUM: Final = 0.9

# A convolution's kernel is a matrix: row `time * channels_in + channel`, one column a filter.
PARAMETERS: Final[tuple[tuple[str, tuple[int, ...]], ...]] = (
    ("conv1/kernel", (36, 12)),
    ("conv1/bias", (12,)),
    ("conv2/kernel", (96, 20)),
    ("conv2/bias", (20,)),
    ("conv3/kernel", (160, 28)),
    ("conv3/bias", (28,)),
    ("head/kernel", (28, 7)),
    ("head/bias", (7,)),
)

"""The seeds of a device's own randomness, so that an interrupted round repeats to the bit."""

import hashlib
from enum import IntEnum

import numpy as np

from qflare.names import DeviceId


class Draw(IntEnum):
    """What a training's seed gives random numbers for; each has a stream of its own."""

    ORDER = 0
    ROUNDING = 1
    DROPOUT = 2
    PRIVACY = 3


def generator(seed: int | None, draw: Draw) -> np.random.Generator:
    """The stream of a 64-bit seed for one purpose; without a seed, the operating system's."""
    if seed is None:
        return np.random.Generator(np.random.PCG64())
    if draw is Draw.ORDER:
        return np.random.Generator(np.random.PCG64(seed))
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, int(draw)))))


def training_seed(seed: int, step: int, device: DeviceId) -> int:
    """The 64-bit seed of what `device` draws in this step.

    `seed` (0…2^64-1) is the device's own, or the whole simulation's. `step` paces the schedule
    and, other than the round's number, stays the same when an abandoned round is run again.
    """
    data = seed.to_bytes(8, "big") + step.to_bytes(8, "big") + device.encode()
    return int.from_bytes(hashlib.sha256(b"qflare/1/training-order\0" + data).digest()[:8], "big")

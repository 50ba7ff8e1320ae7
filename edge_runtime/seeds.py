"""The seeds of a device's own randomness, so that an interrupted round repeats to the bit."""

import hashlib

from qflare.names import DeviceId


def training_seed(seed: int, step: int, device: DeviceId) -> int:
    """The 64-bit seed of the order in which `device` visits its samples in this step.

    `seed` (0…2^64-1) is the device's own, or the whole simulation's. `step` paces the schedule
    and, other than the round's number, stays the same when an abandoned round is run again.
    """
    data = seed.to_bytes(8, "big") + step.to_bytes(8, "big") + device.encode()
    return int.from_bytes(hashlib.sha256(b"qflare/1/training-order\0" + data).digest()[:8], "big")

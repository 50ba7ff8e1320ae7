"""Who is invited: a pure function of the enclave's seed, so that a coordinator can't grind it."""

import hashlib
from collections.abc import Iterable

from qflare.names import DeviceId, Digest


def choose(seed: Digest, candidates: Iterable[DeviceId], count: int) -> tuple[DeviceId, ...]:
    """Return `count` of the candidates, sorted by name; all of them when there are fewer.

    Every candidate draws SHA-256(seed, name) and the smallest draws win, which is sampling without
    replacement for whoever doesn't know the seed. Leaving a device out of the candidates is in
    the coordinator's power; choosing among them is not.
    """

    def draw(name: DeviceId) -> bytes:
        return hashlib.sha256(b"qflare/1/cohort-draw\0" + seed.raw + name.encode()).digest()

    return tuple(sorted(sorted(set(candidates), key=draw)[:count]))

"""Which side an example is on, for training or for testing: decided by what it is, for ever."""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.sources.settings import HoldoutSection

_FULL: Final = 2**64
_PIECES_MAX: Final = 64  # that a window may reach over; so many are hardly ever on one side


def held_out(identity: str, share: float) -> bool:
    """Is what has this identity kept for testing? About `share` of all identities are."""
    mark = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(mark, "big") < share * _FULL


def sides(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    settings: HoldoutSection,
    timed: bool,
    at: str,
) -> NDArray[np.int8]:
    """0 (train), 1 (test) or -1 (neither: it reaches over a border) of windows.

    `first` and `last`, (n,), are the times (µs) of a window's outer rows, or row numbers in the
    recording called `at`. Two windows that share a sample are never on different sides.
    """
    span = round(settings.span_s * 1e6) if timed else settings.span_rows
    begin, end = first // span, last // span
    name = "time" if timed else f"rows of {at}"
    found = np.full(len(first), -1, np.int8)
    known: dict[int, bool] = {}

    def side(piece: int) -> bool:
        if piece not in known:
            known[piece] = held_out(f"{name}/{span}/{piece}", settings.share)
        return known[piece]

    if not settings.share:
        return np.zeros(len(first), np.int8)
    for i, (a, b) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        if b - a > _PIECES_MAX:
            continue
        which = {side(piece) for piece in range(a, b + 1)}
        if len(which) == 1:
            found[i] = int(which.pop())
    return found

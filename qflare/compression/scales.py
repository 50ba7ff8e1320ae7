"""Block scales on the wire: 16-bit floating point without a sign, decoding to exact uint32.

Five bits of exponent e, eleven of mantissa m: the value is m if e = 0, else (2048 + m) · 2^(e-1).
Every value has one code. The relative step is at most 1/2048.
"""

import numpy as np
from numpy.typing import NDArray

from qflare.faults import LocalFault, PeerFault, Reason

EXPONENT_MAX = 21
SCALE_MAX = 4095 << (EXPONENT_MAX - 1)  # below 2^32
CODE_MAX = (EXPONENT_MAX << 11) + 2047


def encode_scales(least: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Codes uint16[k] of the smallest scales that are at least the given ones (0…SCALE_MAX)."""
    if not (least >= 0).all() or not (least <= SCALE_MAX).all():
        raise LocalFault(f"scales outside 0…{SCALE_MAX}: clip the update first")
    whole = np.ceil(least).astype(np.int64)
    shift = np.maximum(np.frexp(whole.astype(np.float64))[1].astype(np.int64) - 12, 0)
    mantissa = -(-whole >> shift)  # rounded up: 4096 if it carries, and then the code carries too
    normal = whole >= 2048
    code = np.where(normal, ((shift + 1) << 11) + mantissa - 2048, whole)
    return code.astype(np.uint16)


def decode_scales(codes: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Scales uint32[k]; raise PeerFault(BAD_VALUE) for a code beyond CODE_MAX."""
    if (codes > CODE_MAX).any():
        raise PeerFault(Reason.BAD_VALUE, "a block's scale is out of range")
    exponent, mantissa = (codes >> 11).astype(np.uint32), (codes & 2047).astype(np.uint32)
    normal = exponent > 0
    shifted = (mantissa + np.uint32(2048)) << (np.maximum(exponent, 1) - np.uint32(1))
    return np.where(normal, shifted, mantissa).astype(np.uint32)

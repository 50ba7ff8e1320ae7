"""The device's half: clip, quantise without bias, keep what was lost for the next round.

Stochastic rounding as in QSGD (Alistarh et al., NeurIPS 2017), with a scale per block of
coordinates; error feedback as in Seide et al. (Interspeech 2014) and Karimireddy et al. (ICML
2019). **The norm law**: with a clip norm given, what the enclave decodes has at most that norm,
exactly, so the enclave needs no slack. Rounding can lengthen a vector; then it is shrunk and
rounded again, and after a few vain tries rounded towards zero, which cannot lengthen it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from qflare.compression.codecs import pack
from qflare.compression.scales import decode_scales, encode_scales
from qflare.compression.table import Codec
from qflare.faults import LocalFault
from qflare.tensors import (
    BLOCK,
    CLIP_MAX,
    FRACTION_BITS,
    SIZE_MAX,
    BlockVector,
    FloatVector,
    blocks_of,
    clip_units,
)

_TRIES = 4


def clip(delta: FloatVector, norm: float) -> FloatVector:
    """Scale float32[n] down to Euclidean norm `norm` if it is longer; refuse NaN and infinity."""
    wide = _finite(delta)
    length = float(np.linalg.norm(wide))
    return delta if length <= norm else (wide * (norm / length)).astype(np.float32)


def encode(
    delta: FloatVector, codec: Codec, rng: np.random.Generator, clip_norm: float | None = None
) -> tuple[bytes, BlockVector]:
    """Return (payload, what it decodes to) for delta float32[n].

    Without a clip norm, q8 and q4 are unbiased: the decoded value's expectation is the delta.
    With one, the decoded value's norm is at most `clip_norm`, exactly. `fixed32` rounds each
    coordinate to the nearest unit. Raise LocalFault for NaN, infinity, or a coordinate beyond
    CLIP_MAX.
    """
    units = np.ldexp(_finite(delta), FRACTION_BITS)
    if clip_norm is None:
        if np.abs(units).max() > math.ldexp(CLIP_MAX, FRACTION_BITS):
            raise LocalFault(f"a coordinate is beyond {CLIP_MAX}: clip the update first")
        return _quantise(units, codec, rng)
    ceiling = clip_units(clip_norm)
    length = float(np.linalg.norm(units))
    if length > ceiling:
        units *= ceiling / length
    for _ in range(_TRIES):
        payload, decoded = _quantise(units, codec, rng)
        square = decoded.squared_norm()
        if square <= ceiling**2:
            return payload, decoded
        units *= 0.999 * ceiling / math.sqrt(square)
    return _quantise(units * (1 - 2.0**-40), codec, None)


def compress_with_feedback(
    delta: FloatVector,
    residual: FloatVector,
    codec: Codec,
    rng: np.random.Generator,
    clip_norm: float,
) -> tuple[bytes, FloatVector]:
    """Encode delta + residual within the clip norm; return (payload, new residual float32[n]).

    The law: decoded + new residual = delta + residual, up to the rounding of float32. Commit the
    residual together with the payload, or a crash loses or doubles what it holds.
    """
    if delta.shape != residual.shape:
        raise LocalFault(f"delta {delta.shape} and residual {residual.shape} must match")
    target = _finite(delta) + _finite(residual)
    payload, decoded = encode(target.astype(np.float32), codec, rng, clip_norm)
    return payload, (target - decoded.values()).astype(np.float32)


def _finite(delta: FloatVector) -> NDArray[np.float64]:
    if delta.ndim != 1 or not 1 <= delta.size <= SIZE_MAX:
        raise LocalFault(f"an update is a flat vector of 1…{SIZE_MAX}, not {delta.shape}")
    if not np.isfinite(delta).all():
        raise LocalFault("the update is not finite: lower the learning rate, or drop it")
    return delta.astype(np.float64)


def _quantise(
    units: NDArray[np.float64], codec: Codec, rng: np.random.Generator | None
) -> tuple[bytes, BlockVector]:
    """Round float64[n] units to the codec's grid: without bias, or towards zero without an rng."""
    size, blocks = len(units), blocks_of(len(units))
    padded = np.zeros((blocks, BLOCK))
    padded.ravel()[:size] = units
    if codec.bits == 32:
        codes, scales = np.zeros(0, np.uint16), np.ones(blocks, np.uint32)
        levels = (np.trunc(padded) if rng is None else np.rint(padded)).astype(np.int32)
    else:
        codes = encode_scales(np.abs(padded).max(axis=1) / codec.top_level)
        scales = decode_scales(codes)
        ratio = padded / np.maximum(scales, 1)[:, None]
        if rng is None:
            ratio = np.trunc(ratio)
        else:
            ratio.ravel()[:size] += rng.random(size)
            np.floor(ratio, out=ratio)
        levels = np.clip(ratio, -codec.top_level, codec.top_level).astype(np.int8)
    decoded = BlockVector(levels, scales, size)
    return pack(levels.ravel()[:size], codes, codec), decoded

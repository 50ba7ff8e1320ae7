"""Laws of the codecs: strict decoding, one spelling, no bias, feedback, the norm bound, padding."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.compression import CODECS, Codec, bucket, pad, unpad
from qflare.compression.codecs import decode, pack
from qflare.compression.encoding import clip, compress_with_feedback, encode
from qflare.compression.scales import CODE_MAX, SCALE_MAX, decode_scales, encode_scales
from qflare.faults import LocalFault, PeerFault
from qflare.tensors import BLOCK, FRACTION_BITS, BlockVector, FloatVector, clip_units

codecs = st.sampled_from([*CODECS.values()])
sizes = st.integers(1, 1200)
seeds = st.integers(0, 2**32 - 1)
magnitudes = st.floats(1e-8, 2.0)


def make(size: int, seed: int, magnitude: float = 0.1) -> FloatVector:
    rng = np.random.default_rng(seed)
    heavy = rng.standard_normal(size) * np.exp(rng.standard_normal(size)) * magnitude
    return np.clip(heavy, -120, 120).astype(np.float32)


def same(a: BlockVector, b: BlockVector) -> bool:
    return (
        a.size == b.size
        and a.levels.dtype == b.levels.dtype
        and a.levels.tobytes() == b.levels.tobytes()
        and a.scales.tobytes() == b.scales.tobytes()
    )


def repack(value: BlockVector, codec: Codec) -> bytes:
    codes = encode_scales(value.scales.astype(np.float64)) if codec.bits < 32 else np.zeros(0, "u2")
    return pack(value.levels.ravel()[: value.size], codes, codec)


@given(codecs, sizes, seeds, magnitudes)
def test_decode_gives_what_encode_said(codec: Codec, size: int, seed: int, scale: float) -> None:
    payload, said = encode(make(size, seed, scale), codec, np.random.default_rng(seed))
    got = decode(payload, codec, size)
    assert same(got, said)
    assert repack(got, codec) == payload
    assert len(payload) <= codec.payload_ceiling(size)


@given(codecs, sizes, st.binary(max_size=2000))
def test_garbage_is_a_peer_fault_or_has_one_spelling(codec: Codec, size: int, data: bytes) -> None:
    try:
        value = decode(data, codec, size)
    except PeerFault:
        return
    assert value.size == size
    if not codec.deflate:
        assert repack(value, codec) == data


@given(st.data(), codecs, sizes, seeds)
def test_damage_of_the_right_length(
    data: st.DataObject, codec: Codec, size: int, seed: int
) -> None:
    payload, said = encode(make(size, seed), codec, np.random.default_rng(seed))
    at = data.draw(st.integers(0, len(payload) - 1))
    damaged = bytearray(payload)
    damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        value = decode(bytes(damaged), codec, size)
    except PeerFault:
        return
    if not codec.deflate:
        assert repack(value, codec) == damaged
        assert not same(value, said)


@given(st.data(), codecs, sizes, seeds)
def test_truncated_and_extended(data: st.DataObject, codec: Codec, size: int, seed: int) -> None:
    payload, _ = encode(make(size, seed), codec, np.random.default_rng(seed))
    cut = data.draw(st.integers(0, len(payload) - 1))
    more = data.draw(st.binary(min_size=1, max_size=70))
    for wrong in (payload[:cut], payload + more):
        with pytest.raises(PeerFault):
            decode(wrong, codec, size)


@given(codecs, st.integers(-3, 2**40))
def test_an_absurd_size_is_refused_before_memory_is_taken(codec: Codec, size: int) -> None:
    with pytest.raises(PeerFault):
        decode(b"", codec, size)


@pytest.mark.parametrize("name", ["q8", "q4", "q4z"])
def test_rounding_is_unbiased(name: str) -> None:
    delta = make(600, 1, 1e-3)
    rng = np.random.default_rng(7)
    rounds = 800
    decoded = [encode(delta, CODECS[name], rng)[1] for _ in range(rounds)]
    error = np.mean([value.values() for value in decoded], axis=0) - delta
    step = np.ldexp(np.repeat(decoded[0].scales, BLOCK)[:600].astype(float), -FRACTION_BITS)
    spread = 0.5 * step / np.sqrt(rounds)  # the most that rounding to two neighbours can have
    assert np.abs(error / spread).max() < 5
    assert abs((error / spread).mean()) < 0.2


def test_tiny_deltas_survive_on_average() -> None:
    delta = np.full(256, 1e-8, np.float32)  # a sixth of a unit
    rng = np.random.default_rng(3)
    got = np.mean([encode(delta, CODECS["q4"], rng)[1].values().mean() for _ in range(2000)])
    assert got == pytest.approx(1e-8, rel=0.05)


@given(sizes, seeds)
def test_fixed32_is_within_half_a_unit(size: int, seed: int) -> None:
    delta = make(size, seed)
    value = encode(delta, CODECS["fixed32"], np.random.default_rng(0))[1].values()
    assert np.abs(value - delta).max() <= 2.0 ** -(FRACTION_BITS + 1)


@settings(max_examples=200)
@given(codecs, sizes, seeds, magnitudes, st.floats(2.0**-16, 127))
def test_an_honest_update_is_within_the_norm_exactly(
    codec: Codec, size: int, seed: int, magnitude: float, norm: float
) -> None:
    _, value = encode(make(size, seed, magnitude), codec, np.random.default_rng(seed), norm)
    assert value.squared_norm() <= clip_units(norm) ** 2


@given(codecs, sizes, seeds, magnitudes, st.floats(2.0**-10, 127))
def test_feedback_loses_nothing(
    codec: Codec, size: int, seed: int, magnitude: float, norm: float
) -> None:
    delta, residual = clip(make(size, seed, magnitude), norm), make(size, seed + 1, magnitude / 10)
    payload, kept = compress_with_feedback(
        delta, residual, codec, np.random.default_rng(seed), norm
    )
    decoded = decode(payload, codec, size).values()
    total = delta.astype(np.float64) + residual
    bound = 2.0**-23 * (np.abs(total) + np.abs(decoded) + 1e-30)
    assert (np.abs(decoded + kept - total) <= bound).all()


def test_feedback_sends_what_rounding_held_back() -> None:
    delta, rng = make(500, 4, 1e-3), np.random.default_rng(5)
    residual, sent = np.zeros(500, np.float32), np.zeros(500)
    for _ in range(50):
        payload, residual = compress_with_feedback(delta, residual, CODECS["q4"], rng, 100.0)
        sent += decode(payload, CODECS["q4"], 500).values()
    assert np.abs(sent / 50 - delta).max() < np.abs(delta).max() / 50


@given(sizes, seeds, st.floats(2.0**-16, 127))
def test_clip(size: int, seed: int, norm: float) -> None:
    delta = make(size, seed)
    clipped = clip(delta, norm)
    assert np.linalg.norm(clipped.astype(np.float64)) <= norm * (1 + 1e-6)
    if np.linalg.norm(delta.astype(np.float64)) <= norm:
        assert clipped is delta


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    delta = np.array([0.0, bad, 1.0], np.float32)
    with pytest.raises(LocalFault):
        clip(delta, 1.0)
    for codec in CODECS.values():
        with pytest.raises(LocalFault):
            encode(delta, codec, np.random.default_rng(0), 1.0)


@given(st.lists(st.floats(0, SCALE_MAX), min_size=1, max_size=50))
def test_scales_round_up_closely(least: list[float]) -> None:
    want = np.array(least)
    got = decode_scales(encode_scales(want))
    assert (got >= want).all()
    assert (got <= np.ceil(want) * (1 + 1 / 2048)).all()


def test_every_scale_code_is_a_bijection() -> None:
    codes = np.arange(CODE_MAX + 1, dtype=np.uint16)
    scales = decode_scales(codes)
    assert (np.diff(scales.astype(np.int64)) > 0).all()
    assert int(scales[-1]) == SCALE_MAX
    assert (encode_scales(scales.astype(np.float64)) == codes).all()
    with pytest.raises(PeerFault):
        decode_scales(np.array([CODE_MAX + 1], np.uint16))


@given(st.binary(max_size=5000))
def test_padding_has_a_strict_inverse(payload: bytes) -> None:
    padded = pad(payload)
    assert unpad(padded) == payload
    for wrong in (padded + b"\0", padded[:-1], payload + b"\x80\0" * 40):
        with contextlib.suppress(PeerFault):
            assert pad(unpad(wrong)) == wrong


@given(st.binary(max_size=600))
def test_padding_refuses_or_has_one_spelling(data: bytes) -> None:
    try:
        payload = unpad(data)
    except PeerFault:
        return
    assert pad(payload) == data


@given(st.integers(1, 2**40))
def test_buckets_are_few_and_close(length: int) -> None:
    size = bucket(length)
    assert length <= size <= length * 1.12 + 1
    assert bucket(size) == size

"""Laws of keys, signatures and seals: garbage is a PeerFault, any changed byte is noticed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.crypto.certificates import verify_device
from qflare.crypto.keys import (
    KemPrivateKey,
    KemPublicKey,
    Sealed,
    Signature,
    SigningKey,
    VerifyKey,
)
from qflare.crypto.suites import SUITES, Aead, parse_aead, parse_suite
from qflare.crypto.suites import XWING_MLDSA65 as SUITE
from qflare.faults import PeerFault, Reason
from qflare.names import FleetId

SIGNING = SigningKey.from_seed(SUITE, bytes(range(32)))
KEM = KemPrivateKey.from_seed(SUITE, bytes(range(96)))
AEADS = st.sampled_from(SUITE.aeads)
PAYLOADS = st.binary(max_size=200)
OTHER_SUITE = replace(SUITE, name="other")

# Lengths around the right ones matter most; contents hardly do.
LENGTHS = st.sampled_from(
    [0, 1, 31, 33, 1136, 1137, 1138, 1215, 1216, 1217, 1951, 1952, 1953, 3308, 3309, 3310, 5000]
)
GARBAGE = st.one_of(
    st.binary(max_size=64),
    st.tuples(LENGTHS, st.integers(0, 255)).map(lambda t: bytes([t[1]]) * t[0]),
    st.tuples(LENGTHS, st.randoms(use_true_random=False)).map(lambda t: t[1].randbytes(t[0])),
)


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def refused(call: Callable[[], object], *reasons: Reason) -> None:
    with pytest.raises(PeerFault) as caught:
        call()
    assert caught.value.reason in reasons


@given(GARBAGE)
def test_garbage_is_parsed_or_refused_and_nothing_else(raw: bytes) -> None:
    for parse in (VerifyKey.parse, KemPublicKey.parse, Signature.parse):
        try:
            assert parse(SUITE, raw).raw == raw
        except PeerFault as fault:
            if fault.reason is not Reason.MALFORMED:
                raise
    try:
        sealed = Sealed.parse(SUITE, raw)
        assert bytes([sealed.aead]) + bytes(sealed.body) == raw
    except PeerFault as fault:
        if fault.reason not in (Reason.MALFORMED, Reason.WRONG_SUITE):
            raise


@given(GARBAGE)
def test_garbage_neither_opens_nor_verifies(raw: bytes) -> None:
    refused(lambda: KEM.open(raw, b""), Reason.MALFORMED, Reason.WRONG_SUITE, Reason.CANNOT_OPEN)
    refused(
        lambda: SIGNING.verify_key.verify("offer", b"", Signature.parse(SUITE, raw)),
        Reason.MALFORMED,
        Reason.BAD_SIGNATURE,
    )


@given(GARBAGE, PAYLOADS)
def test_any_key_from_outside_can_be_used_or_is_refused(raw: bytes, message: bytes) -> None:
    signature = SIGNING.sign("offer", message)
    try:
        key = VerifyKey.parse(SUITE, raw)
    except PeerFault:
        pass
    else:
        refused(lambda: key.verify("offer", message, signature), Reason.BAD_SIGNATURE)
    try:
        KemPublicKey.parse(SUITE, raw).seal(message, b"")
    except PeerFault as fault:
        if fault.reason not in (Reason.MALFORMED, Reason.BAD_VALUE):
            raise


@given(GARBAGE)
def test_garbage_is_no_certificate(raw: bytes) -> None:
    refused(
        lambda: verify_device(raw, [], None, FleetId("fleet"), ()),
        Reason.MALFORMED,
        Reason.TOO_LARGE,
    )


@given(st.text(max_size=40))
def test_only_a_registered_suite_has_a_name(name: str) -> None:
    if name not in {suite.name for suite in SUITES}:
        refused(lambda: parse_suite(name), Reason.WRONG_SUITE)
    assert parse_suite(SUITE.name) is SUITE


@given(st.integers())
def test_only_a_registered_aead_has_a_number(number: int) -> None:
    if number not in (2, 3):
        refused(lambda: parse_aead(SUITE, number), Reason.WRONG_SUITE)


@given(PAYLOADS, PAYLOADS, AEADS)
def test_what_is_sealed_opens_and_costs_1137_bytes(
    plaintext: bytes, info: bytes, aead: Aead
) -> None:
    sealed = KEM.public.seal(plaintext, info, aead=aead)
    assert len(sealed) == len(plaintext) + 1 + 1136
    assert sealed[0] == aead
    assert KEM.open(sealed, info) == plaintext
    assert KEM.public.seal(plaintext, info, aead=aead) != sealed


@given(PAYLOADS, PAYLOADS.filter(bool), AEADS, st.data())
def test_no_bit_of_a_seal_or_its_binding_can_change(
    plaintext: bytes, info: bytes, aead: Aead, data: st.DataObject
) -> None:
    sealed = KEM.public.seal(plaintext, info, aead=aead)
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    refused(lambda: KEM.open(flip(sealed, bit), info), Reason.CANNOT_OPEN, Reason.WRONG_SUITE)
    bit = data.draw(st.integers(0, 8 * len(info) - 1))
    refused(lambda: KEM.open(sealed, flip(info, bit)), Reason.CANNOT_OPEN)
    cut = data.draw(st.integers(0, len(sealed) - 1))
    refused(lambda: KEM.open(sealed[:cut], info), Reason.CANNOT_OPEN, Reason.MALFORMED)
    refused(lambda: KEM.open(sealed + b"\0", info), Reason.CANNOT_OPEN)


def test_every_byte_of_a_seal_counts() -> None:
    sealed = KEM.public.seal(b"x", b"info")
    for at in range(len(sealed)):
        refused(
            lambda at=at: KEM.open(flip(sealed, 8 * at), b"info"),  # type: ignore[misc]
            Reason.CANNOT_OPEN,
            Reason.WRONG_SUITE,
        )


@given(PAYLOADS)
def test_a_seal_opens_with_its_own_key_only(plaintext: bytes) -> None:
    sealed = KEM.public.seal(plaintext, b"")
    for other in (bytes(96), bytes(range(64)) + bytes(32), bytes(64) + bytes(range(64, 96))):
        stranger = KemPrivateKey.from_seed(SUITE, other)
        refused(lambda key=stranger: key.open(sealed, b""), Reason.CANNOT_OPEN)  # type: ignore[misc]


@given(PAYLOADS.filter(bool), st.data())
def test_no_bit_of_a_signature_or_message_can_change(message: bytes, data: st.DataObject) -> None:
    key, signature = SIGNING.verify_key, SIGNING.sign("offer", message)
    key.verify("offer", message, signature)
    bit = data.draw(st.integers(0, 8 * SUITE.signature_length - 1))
    bad = Signature.parse(SUITE, flip(signature.raw, bit))
    refused(lambda: key.verify("offer", message, bad), Reason.BAD_SIGNATURE)
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    refused(lambda: key.verify("offer", flip(message, bit), signature), Reason.BAD_SIGNATURE)
    refused(lambda: key.verify("offer", message + b"\0", signature), Reason.BAD_SIGNATURE)


NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)


@given(NAMES, NAMES, PAYLOADS)
def test_a_signature_holds_under_its_own_context_only(
    context: str, other: str, message: bytes
) -> None:
    signature = SIGNING.sign(context, message)
    if context == other:
        SIGNING.verify_key.verify(other, message, signature)
    else:
        refused(lambda: SIGNING.verify_key.verify(other, message, signature), Reason.BAD_SIGNATURE)


def test_suites_are_never_mixed() -> None:
    signature = replace(SIGNING.sign("offer", b""), suite=OTHER_SUITE)
    refused(
        lambda: SIGNING.verify_key.verify("offer", b"", signature),
        Reason.WRONG_SUITE,
    )

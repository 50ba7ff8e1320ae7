"""Suite frodo640aes-mldsa44: seal and open are inverse, and garbage gives nothing but a refusal."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.crypto.keys import KemPrivateKey, KemPublicKey
from qflare.crypto.suites import FRODO640AES_MLDSA44 as SUITE
from qflare.crypto.suites import Aead
from qflare.faults import PeerFault, Reason
from tests.oqs_kit import LACKING, needs_liboqs

pytestmark = needs_liboqs
if not LACKING:
    KEY = KemPrivateKey.generate(SUITE)
    SEALED = KEY.public.seal(b"a message", b"info")
EXTRA = SUITE.seal_overhead
SEEDS = st.integers(0, 2**32)


def refused(work: Callable[[], object], *reasons: Reason) -> None:
    with pytest.raises(PeerFault) as caught:
        work()
    assert caught.value.reason in reasons


@given(st.binary(max_size=64), st.binary(max_size=64), st.sampled_from(SUITE.aeads))
def test_what_is_sealed_opens(plaintext: bytes, info: bytes, aead: Aead) -> None:
    sealed = KEY.public.seal(plaintext, info, aead=aead)
    assert len(sealed) == len(plaintext) + EXTRA
    assert KEY.open(sealed, info) == plaintext


@given(st.integers(0, EXTRA + 8), st.integers(1, 255))
def test_no_changed_byte_opens(at: int, by: int) -> None:
    changed = bytearray(SEALED)
    changed[at] ^= by
    refused(lambda: KEY.open(bytes(changed), b"info"), Reason.CANNOT_OPEN, Reason.WRONG_SUITE)


@given(st.integers(0, 2 * EXTRA), SEEDS, st.sampled_from([1, 2, 3]))
def test_garbage_does_not_open(length: int, seed: int, aead: int) -> None:
    raw = (bytes([aead]) + Random(seed).randbytes(length))[:length]
    expected = Reason.CANNOT_OPEN if aead in SUITE.aeads else Reason.WRONG_SUITE
    refused(lambda: KEY.open(raw, b"info"), Reason.MALFORMED if length < EXTRA else expected)


@given(SEEDS, st.integers(-1, 1))
def test_a_key_of_garbage_is_refused_or_seals_for_nobody(seed: int, more: int) -> None:
    raw = Random(seed).randbytes(SUITE.kem_public_length + more)

    def through() -> bytes:
        return KEY.open(KemPublicKey.parse(SUITE, raw).seal(b"m", b"info"), b"info")

    refused(through, Reason.MALFORMED if more else Reason.CANNOT_OPEN, Reason.BAD_VALUE)

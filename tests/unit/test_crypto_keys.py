"""Keys, one case at a time: secrecy, storage, lengths, contexts, the choice of an AEAD."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest

from qflare.crypto import suites
from qflare.crypto.keys import KemPrivateKey, KemPublicKey, Signature, SigningKey, VerifyKey
from qflare.crypto.provider import provider_of
from qflare.crypto.suites import XWING_MLDSA65 as SUITE
from qflare.crypto.suites import Aead, fast_aead
from qflare.faults import LocalFault, PeerFault, Reason

PRIVATE = [SigningKey, KemPrivateKey]


@pytest.mark.parametrize("kind", PRIVATE)
def test_a_private_key_shows_nothing_of_itself(kind: type[SigningKey | KemPrivateKey]) -> None:
    key = kind.generate(SUITE)
    shown = f"{key} {key!r} {[key]} {vars(type(key))['__slots__']}"
    assert key.to_seed().hex()[:16] not in shown
    assert repr(key.to_seed())[2:20] not in shown
    assert repr(key) == f"<{kind.__name__}, secret>"
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("kind", PRIVATE)
@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_private_key_is_not_pickled_or_copied(
    kind: type[SigningKey | KemPrivateKey], leak: Callable[[object], object]
) -> None:
    with pytest.raises(LocalFault, match="to_seed"):
        leak(kind.generate(SUITE))


def test_a_stored_seed_is_the_same_key_again() -> None:
    signing = SigningKey.generate(SUITE)
    again = SigningKey.from_seed(SUITE, signing.to_seed())
    assert again.verify_key == signing.verify_key
    signing.verify_key.verify("offer", b"m", again.sign("offer", b"m"))
    kem = KemPrivateKey.generate(SUITE)
    assert len(kem.to_seed()) == 96
    assert (
        KemPrivateKey.from_seed(SUITE, kem.to_seed()).open(kem.public.seal(b"m", b""), b"") == b"m"
    )


@pytest.mark.parametrize("kind", PRIVATE)
@pytest.mark.parametrize("length", [0, 31, 33, 64, 95, 97])
def test_a_seed_of_another_length_is_our_own_fault(
    kind: type[SigningKey | KemPrivateKey], length: int
) -> None:
    with pytest.raises(LocalFault, match="bytes"):
        kind.from_seed(SUITE, bytes(length))


def test_every_generated_key_is_another() -> None:
    assert SigningKey.generate(SUITE).verify_key != SigningKey.generate(SUITE).verify_key
    assert KemPrivateKey.generate(SUITE).public != KemPrivateKey.generate(SUITE).public


def test_public_keys_are_values() -> None:
    key = SigningKey.generate(SUITE).verify_key
    same = VerifyKey.parse(SUITE, key.raw)
    assert {key, same, pickle.loads(pickle.dumps(key))} == {key}  # noqa: S301
    assert key.fingerprint == same.fingerprint
    assert key.fingerprint.short in repr(key)
    with pytest.raises(FrozenInstanceError):
        key.raw = b""  # type: ignore[misc]


def test_a_suite_without_a_provider_is_said_to_have_none() -> None:
    with pytest.raises(LocalFault, match="xwing-mldsa66"):
        provider_of(replace(SUITE, name="xwing-mldsa66"))


def test_sizes_are_those_of_the_standards() -> None:
    signing, kem = SigningKey.generate(SUITE), KemPrivateKey.generate(SUITE)
    assert len(signing.verify_key.raw) == 1952
    assert len(signing.sign("offer", b"").raw) == 3309
    assert len(kem.public.raw) == 1216
    assert SUITE.seal_overhead == 1137 == len(kem.public.seal(b"", b""))


def test_a_key_of_small_order_is_refused_when_sealing() -> None:
    raw = KemPrivateKey.generate(SUITE).public.raw[:1184] + bytes(32)
    with pytest.raises(PeerFault) as caught:
        KemPublicKey.parse(SUITE, raw).seal(b"m", b"")
    assert caught.value.reason is Reason.BAD_VALUE


def test_a_signature_made_past_the_parser_is_measured_again() -> None:
    with pytest.raises(PeerFault) as caught:
        SigningKey.generate(SUITE).verify_key.verify("offer", b"", Signature(SUITE, b"short"))
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("name", ["", "Offer", "qflare/1/offer", "a b", "-a", "a" * 65, "ä"])
def test_a_context_is_a_bare_name(name: str) -> None:
    with pytest.raises(LocalFault, match="context"):
        SigningKey.generate(SUITE).sign(name, b"")


def test_sealing_with_an_aead_that_the_suite_has_not() -> None:
    kem = KemPrivateKey.generate(SUITE)
    narrow = replace(SUITE, aeads=(Aead.AES_256_GCM,))
    key = KemPublicKey.parse(narrow, kem.public.raw)
    with pytest.raises(LocalFault, match="does not offer"):
        key.seal(b"", b"", aead=Aead.CHACHA20_POLY1305)


def test_mutable_and_borrowed_buffers_serve_as_well() -> None:
    kem = KemPrivateKey.generate(SUITE)
    sealed = kem.public.seal(bytearray(b"m"), memoryview(b"i"))
    assert kem.open(memoryview(sealed), bytearray(b"i")) == b"m"


def test_suites_are_told_apart_by_name_and_by_the_length_of_a_verify_key() -> None:
    assert len({s.name for s in suites.SUITES}) == len(suites.SUITES)
    assert len({s.verify_key_length for s in suites.SUITES}) == len(suites.SUITES)
    assert str(suites.DEFAULT) == "xwing-mldsa65"


@pytest.mark.parametrize(
    ("cpuinfo", "aead"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 aes avx\n", Aead.AES_256_GCM),
        ("processor\t: 0\nflags\t\t: fpu sse2 vaes avx\n", Aead.CHACHA20_POLY1305),
        ("Features\t: fp asimd evtstrm aes pmull sha1\n", Aead.AES_256_GCM),  # Raspberry Pi 5
        ("Features\t: fp asimd evtstrm crc32 cpuid\n", Aead.CHACHA20_POLY1305),  # Raspberry Pi 4
        ("Model\t: aes\n", Aead.CHACHA20_POLY1305),
        ("", Aead.CHACHA20_POLY1305),
    ],
)
def test_the_aead_follows_the_processor(cpuinfo: str, aead: Aead) -> None:
    assert fast_aead(cpuinfo) is aead

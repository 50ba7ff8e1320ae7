"""Suite frodo640aes-mldsa44 on a real liboqs: who can open what, and which variant it is."""

from datetime import UTC, datetime

import pytest

from qflare.crypto import frodo, liboqs
from qflare.crypto.certificates import verify_device
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import KemPrivateKey, KemPublicKey, Signature, SigningKey, VerifyKey
from qflare.crypto.suites import FRODO640AES_MLDSA44 as SUITE
from qflare.crypto.suites import XWING_MLDSA65, Aead, suite_of_verify_key
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import DeviceId, FleetId
from tests.oqs_kit import needs_liboqs

pytestmark = needs_liboqs
FRODO_CT, FRODO_PK = 9752, 9616
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def key() -> KemPrivateKey:
    return KemPrivateKey.generate(SUITE)


def refusal(key: KemPrivateKey, sealed: bytes, info: bytes = b"info") -> Reason:
    with pytest.raises(PeerFault) as caught:
        key.open(sealed, info)
    return caught.value.reason


@pytest.mark.parametrize("aead", SUITE.aeads)
def test_what_is_sealed_opens_once_stored_and_restored(key: KemPrivateKey, aead: Aead) -> None:
    again = KemPrivateKey.from_seed(SUITE, key.to_seed())
    assert again.public == key.public
    sealed = key.public.seal(bytearray(b"update"), memoryview(b"info"), aead=aead)
    assert again.open(memoryview(sealed), bytearray(b"info")) == b"update"
    assert again.open(again.public.seal(b"", b""), b"") == b""


def test_sizes_are_the_salted_variants(key: KemPrivateKey) -> None:
    assert len(key.public.raw) == SUITE.kem_public_length == 9648
    assert len(key.to_seed()) == SUITE.kem_seed_length == 19_920
    assert len(key.public.seal(b"", b"")) == SUITE.seal_overhead == 1 + 9752 + 32 + 16
    with liboqs.frodo() as kem:
        found = kem.details
    assert found["length_public_key"] == liboqs.PUBLIC
    assert found["length_secret_key"] == liboqs.SECRET
    assert found["length_shared_secret"] == liboqs.SHARED


def test_the_stored_key_holds_the_public_key_that_was_made_with_it() -> None:
    with liboqs.frodo() as kem:
        public = kem.generate_keypair()
        seed = kem.export_secret_key() + bytes(31) + b"\x01"
    assert KemPrivateKey.from_seed(SUITE, seed).public.raw[:FRODO_PK] == public


def test_two_seals_of_one_message_differ_everywhere(key: KemPrivateKey) -> None:
    one, two = key.public.seal(b"m" * 64, b""), key.public.seal(b"m" * 64, b"")
    for part in (slice(1, 65), slice(9753, 9785), slice(9785, None)):
        assert one[part] != two[part]


@pytest.mark.parametrize("at", [0, 1, 5000, 9752, 9753, 9784, 9785, 9790, -1])
def test_every_part_is_bound(key: KemPrivateKey, at: int) -> None:
    sealed = bytearray(key.public.seal(b"update", b"info"))
    sealed[at] ^= 1  # byte 0 names the AEAD: 2 becomes 3
    assert refusal(key, bytes(sealed)) is Reason.CANNOT_OPEN


def test_another_info_or_key_opens_nothing(key: KemPrivateKey) -> None:
    sealed = key.public.seal(b"update", b"info")
    assert refusal(key, sealed, b"info ") is Reason.CANNOT_OPEN
    assert refusal(key, sealed, b"") is Reason.CANNOT_OPEN
    assert refusal(KemPrivateKey.generate(SUITE), sealed) is Reason.CANNOT_OPEN


@pytest.mark.parametrize("half", [slice(1, 9753), slice(9753, 9785)])
def test_half_of_another_encapsulation_opens_nothing(key: KemPrivateKey, half: slice) -> None:
    sealed = bytearray(key.public.seal(b"update", b"info"))
    sealed[half] = key.public.seal(b"update", b"info")[half]
    assert refusal(key, bytes(sealed)) is Reason.CANNOT_OPEN


@pytest.mark.parametrize("half", [slice(0, 19_888), slice(19_888, None)])
def test_one_of_the_two_private_keys_opens_nothing(key: KemPrivateKey, half: slice) -> None:
    mixed = bytearray(KemPrivateKey.generate(SUITE).to_seed())
    mixed[half] = key.to_seed()[half]
    sealed = key.public.seal(b"update", b"info")
    assert refusal(KemPrivateKey.from_seed(SUITE, bytes(mixed)), sealed) is Reason.CANNOT_OPEN


def test_swapped_halves_and_cut_ends_are_refused(key: KemPrivateKey) -> None:
    sealed = key.public.seal(b"update", b"info")
    swapped = sealed[:1] + sealed[9753:9785] + sealed[1:9753] + sealed[9785:]
    assert refusal(key, swapped) is Reason.CANNOT_OPEN
    assert refusal(key, sealed[:-1]) is Reason.CANNOT_OPEN
    for length in (0, 1, 9753, SUITE.seal_overhead - 1):
        assert refusal(key, sealed[:length]) is Reason.MALFORMED
    turned = key.public.raw[FRODO_PK:] + key.public.raw[:FRODO_PK]
    assert refusal(key, KemPublicKey.parse(SUITE, turned).seal(b"m", b"info")) is Reason.CANNOT_OPEN


def test_the_ephemeral_variant_is_refused(key: KemPrivateKey) -> None:
    kem_class = liboqs.library().KeyEncapsulation
    with kem_class("eFrodoKEM-640-AES") as kem:
        assert kem.details["length_ciphertext"] == 9720
        public = kem.generate_keypair()
        ct, _ = kem.encap_secret(key.public.raw[:FRODO_PK])
    assert len(public) == FRODO_PK  # nothing tells the two kinds of public key apart ...
    sealed = key.public.seal(b"update" * 10, b"info")
    mixed = sealed[:1] + ct + sealed[9753:]
    assert refusal(key, mixed) is Reason.CANNOT_OPEN  # ... and the ciphertexts never agree
    assert refusal(key, sealed[:1] + ct + sealed[9753:9801]) is Reason.MALFORMED


def test_a_liboqs_with_the_old_variant_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs, "_NAME", "eFrodoKEM-640-AES")  # so it was called until 0.15
    liboqs.library.cache_clear()
    with pytest.raises(LocalFault, match=r"9720 bytes; install liboqs 0\.16"):
        liboqs.library()
    monkeypatch.setattr(liboqs, "_NAME", "FrodoKEM-640-AES/none")
    with pytest.raises(LocalFault, match="used: FrodoKEM-640-AES/none; install"):
        liboqs.library()


def test_a_key_of_small_order_is_refused_when_sealing_and_when_opening(key: KemPrivateKey) -> None:
    with pytest.raises(PeerFault) as caught:
        KemPublicKey.parse(SUITE, key.public.raw[:FRODO_PK] + bytes(32)).seal(b"m", b"")
    assert caught.value.reason is Reason.BAD_VALUE
    sealed = bytearray(key.public.seal(b"m", b"info"))
    sealed[9753:9785] = bytes(32)
    assert refusal(key, bytes(sealed)) is Reason.CANNOT_OPEN


def test_the_label_names_suite_and_variant() -> None:
    assert frodo.LABEL == b"qflare/1/frodo640aes-mldsa44\0FrodoKEM-640-AES/salted+X25519"


@pytest.mark.parametrize("length", [0, 1216, 9616, 9647, 9649])
def test_keys_of_another_length_are_none(length: int) -> None:
    with pytest.raises(PeerFault) as caught:
        KemPublicKey.parse(SUITE, bytes(length))
    assert caught.value.reason is Reason.MALFORMED
    with pytest.raises(LocalFault, match="bytes"):
        KemPrivateKey.from_seed(SUITE, bytes(length))


def test_suites_do_not_mix() -> None:
    ours, other = SigningKey.generate(SUITE), SigningKey.generate(XWING_MLDSA65)
    signed = ours.sign("offer", b"m")
    assert (len(ours.verify_key.raw), len(signed.raw)) == (1312, 2420)
    ours.verify_key.verify("offer", b"m", signed)
    assert suite_of_verify_key(ours.verify_key.raw) is SUITE
    with pytest.raises(PeerFault) as caught:
        other.verify_key.verify("offer", b"m", signed)
    assert caught.value.reason is Reason.WRONG_SUITE
    for wrong in (
        ours.sign("offer", b"n"),
        ours.sign("order", b"m"),
        Signature(SUITE, bytes(2420)),
    ):
        with pytest.raises(PeerFault) as caught:
            ours.verify_key.verify("offer", b"m", wrong)
        assert caught.value.reason is Reason.BAD_SIGNATURE
    with pytest.raises(PeerFault) as caught:
        VerifyKey.parse(XWING_MLDSA65, ours.verify_key.raw)
    assert caught.value.reason is Reason.MALFORMED
    xwing = KemPrivateKey.generate(XWING_MLDSA65)
    with pytest.raises(PeerFault):
        KemPublicKey.parse(SUITE, xwing.public.raw)
    assert refusal(xwing, KemPrivateKey.generate(SUITE).public.seal(b"m", b"info")) is (
        Reason.CANNOT_OPEN
    )


def test_certificates_are_of_one_suite() -> None:
    fleet, device = FleetId("fleet"), DeviceId("pump")
    ca_key, ca = issue_ca(fleet, SUITE, NOW, 30)
    key = SigningKey.generate(SUITE)
    made = issue_device(ca_key, ca, device, key.verify_key, NOW, 10)
    assert len(made) < 4400
    assert verify_device(made, [ca], NOW, fleet, (), SUITE).verify_key == key.verify_key
    with pytest.raises(PeerFault) as caught:
        verify_device(made, [ca], NOW, fleet, (), XWING_MLDSA65)
    assert caught.value.reason is Reason.WRONG_SUITE
    other = SigningKey.generate(XWING_MLDSA65).verify_key
    with pytest.raises(PeerFault) as caught:
        issue_device(ca_key, ca, device, other, NOW, 10)
    assert caught.value.reason is Reason.WRONG_SUITE

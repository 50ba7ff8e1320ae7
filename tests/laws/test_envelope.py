"""Envelopes: what was signed is what is read, and a sealed update can't be moved anywhere."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare import codec
from qflare.crypto.certificates import verify_device
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT, Aead
from qflare.envelope import Update, open_signed, peek_signed, seal_update, sign
from qflare.faults import PeerFault, Reason
from qflare.messages import (
    ZERO,
    EnclaveClaims,
    ReceiptStatus,
    RoundReceipt,
    UpdatePayload,
    UpdateReceipt,
)
from qflare.names import DeviceId, Digest, FleetId

FLEET = FleetId.parse("fleet")
DEVICE = DeviceId.parse("dev-1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CA_KEY, CA = issue_ca(FLEET, DEFAULT, NOW, 30)
KEY = SigningKey.generate(DEFAULT)
CERTIFICATE = verify_device(
    issue_device(CA_KEY, CA, DEVICE, KEY.verify_key, NOW, 30), [CA], NOW, FLEET, frozenset()
)
KEM = KemPrivateKey.generate(DEFAULT)
CLAIMS = EnclaveClaims(
    fleet=FLEET,
    suite=DEFAULT.name,
    manifest=ZERO,
    round=7,
    opened_at=0,
    epoch=9,
    step=3,
    policy=ZERO,
    cohort=ZERO,
    model=ZERO,
    state=ZERO,
    receipt=ZERO,
    kem_key=KEM.public.raw,
    signing_key=KEY.verify_key.raw,
)
RECEIPT = UpdateReceipt(FLEET, DEVICE, 7, ZERO, ReceiptStatus.ACCEPTED, "")
CEILING = 1 << 20


def sealed(payload: bytes = b"delta" * 50) -> bytes:
    message = UpdatePayload(12, payload, (9, 4, 5, 800, 700))
    return seal_update(message, CLAIMS, DEVICE, CERTIFICATE.fingerprint, KEY, Aead.AES_256_GCM)


def test_a_signed_message_comes_back() -> None:
    data = sign(RECEIPT, KEY)
    assert open_signed(UpdateReceipt, data, KEY.verify_key) == RECEIPT
    assert peek_signed(UpdateReceipt, data) == RECEIPT


def test_another_key_or_another_context_is_refused() -> None:
    with pytest.raises(PeerFault) as caught:
        open_signed(UpdateReceipt, sign(RECEIPT, KEY), SigningKey.generate(DEFAULT).verify_key)
    assert caught.value.reason is Reason.BAD_SIGNATURE
    body = RECEIPT.to_bytes()
    elsewhere = codec.encode([body, KEY.sign(RoundReceipt.CONTEXT, body).raw])
    with pytest.raises(PeerFault) as caught:
        open_signed(UpdateReceipt, elsewhere, KEY.verify_key)
    assert caught.value.reason is Reason.BAD_SIGNATURE


@given(st.data())
@settings(max_examples=60)
def test_every_damaged_byte_of_an_update_is_noticed(data: st.DataObject) -> None:
    raw = bytearray(sealed())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PeerFault):
        opened(bytes(raw))


def opened(raw: bytes) -> UpdatePayload:
    update = Update.parse(raw, CEILING)
    update.verify(CERTIFICATE.verify_key)
    return update.open(KEM)


def test_an_update_opens_with_its_own_key_alone() -> None:
    assert opened(sealed()) == UpdatePayload(12, b"delta" * 50, (9, 4, 5, 800, 700))
    update = Update.parse(sealed(), CEILING)
    with pytest.raises(PeerFault) as caught:
        update.open(KemPrivateKey.generate(DEFAULT))
    assert caught.value.reason is Reason.CANNOT_OPEN


@pytest.mark.parametrize(
    "moved",
    [
        {"claims": Digest.of(b"other")},
        {"device": DeviceId.parse("dev-2")},
        {"round": 8},
        {"certificate": Digest.of(b"other")},
    ],
)
def test_a_header_signed_again_for_elsewhere_opens_nothing(moved: dict[str, object]) -> None:
    update = Update.parse(sealed(), CEILING)
    header = replace(update.header, **moved)  # type: ignore[arg-type]
    stolen = replace(update, header=header, signed=header.to_bytes())
    with pytest.raises(PeerFault) as caught:
        stolen.open(KEM)
    assert caught.value.reason is Reason.CANNOT_OPEN


def test_the_ceiling_comes_first() -> None:
    with pytest.raises(PeerFault) as caught:
        Update.parse(bytes(101), 100)
    assert caught.value.reason is Reason.TOO_LARGE


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    for attempt in (
        lambda: open_signed(UpdateReceipt, data, KEY.verify_key),
        lambda: Update.parse(data, CEILING),
    ):
        with pytest.raises(PeerFault):
            attempt()


@given(st.integers(0, 3000))
@settings(max_examples=30)
def test_the_size_on_the_wire_says_only_the_bucket(extra: int) -> None:
    sizes = {len(sealed(bytes(n))) for n in (4096 + extra, 4096 + extra)}
    assert len(sizes) == 1

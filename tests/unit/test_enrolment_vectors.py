"""The published vectors of enrolment: what another implementation would be held to, we are too."""

import hmac
import json
from pathlib import Path

import pytest

from qflare.crypto.keys import KemPrivateKey, SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import (
    EnrolChallenge,
    EnrolGrant,
    EnrolProof,
    EnrolRequest,
    fingerprint_words,
    open_grant,
)
from qflare.faults import PeerFault
from qflare.names import Digest

FILE = Path(__file__).parents[1] / "vectors" / "protocol" / "enrolment.json"
CASE = json.loads(FILE.read_text())


def raw(name: str) -> bytes:
    return bytes.fromhex(CASE[name])


@pytest.mark.parametrize("case", CASE["words"], ids=lambda case: case["digest"][:8])
def test_words(case: dict[str, str]) -> None:
    assert " ".join(fingerprint_words(Digest.parse(case["digest"]))) == case["words"]


def test_the_exchange() -> None:
    request = EnrolRequest.parse(raw("request"))
    assert str(request.digest) == CASE["request_digest"]
    device = SigningKey.from_seed(DEFAULT, raw("device_seed"))
    assert device.verify_key == request.key
    assert str(request.key.fingerprint) == CASE["fingerprint"]
    challenge = EnrolChallenge.parse(raw("challenge"))
    assert hmac.digest(raw("secret"), raw("signed_words"), "sha256") == raw("mac")
    made = EnrolProof.make(request, challenge, raw("secret"), device)
    assert made.mac == raw("mac")
    published = EnrolProof.parse(raw("proof"))
    published.verify(raw("secret"))
    assert (published.request, published.mac) == (request, raw("mac"))
    kem = KemPrivateKey.from_seed(DEFAULT, raw("kem_seed"))
    coordinator = VerifyKey.parse(DEFAULT, raw("coordinator_verify_key"))
    grant = open_grant(raw("sealed_grant"), request, kem, coordinator)
    assert grant == EnrolGrant.parse(raw("grant"))


@pytest.mark.parametrize("name", ["proof", "sealed_grant", "challenge", "request"])
def test_with_one_bit_changed(name: str) -> None:
    request = EnrolRequest.parse(raw("request"))
    kem = KemPrivateKey.from_seed(DEFAULT, raw("kem_seed"))
    coordinator = VerifyKey.parse(DEFAULT, raw("coordinator_verify_key"))
    damaged = bytearray(raw(name))
    damaged[-1] ^= 1
    data = bytes(damaged)
    if name in ("challenge", "request"):  # its last byte is a nonce's: another message
        kind = EnrolChallenge if name == "challenge" else EnrolRequest
        assert kind.parse(data) != kind.parse(raw(name))
        return
    attempts = {
        "proof": lambda: EnrolProof.parse(data).verify(raw("secret")),
        "sealed_grant": lambda: open_grant(data, request, kem, coordinator),
    }
    with pytest.raises(PeerFault):
        attempts[name]()

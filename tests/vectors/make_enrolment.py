"""Make the enrolment's own test vectors: `python -m tests.vectors.make_enrolment`.

Keys come from the seeds in the file; signatures and encapsulations are randomised, so a second run
writes other bytes that mean the same.
"""

import hmac
import json
from pathlib import Path

from qflare import codec
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT, Aead
from qflare.enrolment import (
    EnrolChallenge,
    EnrolGrant,
    EnrolProof,
    EnrolRequest,
    fingerprint_words,
    seal_grant,
)
from qflare.names import DeviceId, Digest, FleetId

FILE = Path(__file__).parent / "protocol" / "enrolment.json"
FLEET, NAME = FleetId.parse("fleet"), DeviceId.parse("device-1")
DEVICE_SEED, COORDINATOR_SEED = bytes(range(32)), bytes(range(1, 33))
KEM_SEED, SECRET, TOKEN = bytes(range(96)), bytes(range(64, 96)), bytes(range(16))


def vectors() -> dict[str, object]:
    """Everything that two implementations have to agree on."""
    device, coordinator = (
        SigningKey.from_seed(DEFAULT, seed) for seed in (DEVICE_SEED, COORDINATOR_SEED)
    )
    kem = KemPrivateKey.from_seed(DEFAULT, KEM_SEED)
    request = EnrolRequest(
        fleet=FLEET,
        token=TOKEN,
        suite=DEFAULT.name,
        name=NAME,
        verify_key=device.verify_key.raw,
        kem_key=kem.public.raw,
        board="rpi4",
        serial="10000000abcdef01",
        manifest=Digest.of(b"a manifest"),
        nonce=bytes(32),
    )
    challenge = EnrolChallenge(FLEET, TOKEN, request.digest, bytes(range(32)))
    proof = EnrolProof.make(request, challenge, SECRET, device)
    words = codec.encode(["qflare/1/enrol-proof", request.digest.raw, challenge.nonce])
    grant = EnrolGrant(
        fleet=FLEET,
        name=NAME,
        request=request.digest,
        certificate=b"a certificate",
        brokers=("mqtts://broker:8883",),
        ca=b"",
        user=NAME,
        password="password",
        owner_key=b"an owner's key",
        manifest=request.manifest,
        newer_manifest=b"",
        issued_at=1_800_000_000,
    )
    sealed = seal_grant(grant, request, coordinator, Aead.CHACHA20_POLY1305)
    return {
        "words": [
            {"digest": digest.raw.hex(), "words": " ".join(fingerprint_words(digest))}
            for digest in (Digest(bytes(32)), Digest(b"\xff" * 32), Digest.of(b"words"))
        ],
        "device_seed": DEVICE_SEED.hex(),
        "fingerprint": str(device.verify_key.fingerprint),
        "coordinator_verify_key": coordinator.verify_key.raw.hex(),
        "kem_seed": KEM_SEED.hex(),
        "secret": SECRET.hex(),
        "request": request.to_bytes().hex(),
        "request_digest": str(request.digest),
        "challenge": challenge.to_bytes().hex(),
        "signed_words": words.hex(),
        "mac": hmac.digest(SECRET, words, "sha256").hex(),
        "proof": proof.to_bytes().hex(),
        "grant": grant.to_bytes().hex(),
        "sealed_grant": sealed.hex(),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n")

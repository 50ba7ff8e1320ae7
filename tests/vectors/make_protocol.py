"""Make the protocol's own test vectors: `python -m tests.vectors.make_protocol`.

For whoever writes a device in another language. Signatures and encapsulations are randomised, so a
second run writes other bytes that mean the same; the committed ones only change with the protocol.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qflare import codec
from qflare.cohort import choose
from qflare.compression import CODECS, bucket
from qflare.compression.encoding import encode
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import seal_info, seal_update, sign
from qflare.messages import (
    ZERO,
    EnclaveClaims,
    ReceiptStatus,
    RoundReceipt,
    UpdatePayload,
    UpdateReceipt,
    update_leaf,
)
from qflare.names import DeviceId, Digest, FleetId
from qflare.policy import RoundPolicy
from qflare.report import DeviceReport, GateSays, Health
from qflare.rollout import BundleOffer, Rollout
from qflare.schedule import Schedule

FOLDER = Path(__file__).parent / "protocol"
FLEET = FleetId.parse("fleet")
DEVICE = DeviceId.parse("device-1")
SIGNING_SEED, KEM_SEED = bytes(range(32)), bytes(range(96))
CERTIFICATE = Digest.of(b"a device certificate")
POLICY = RoundPolicy(
    suite=DEFAULT.name,
    codec="q4z",
    min_cohort=2,
    max_cohort=20,
    clip_norm=16.0,
    weight_cap=4096,
    deadline_s=120,
    schedule=Schedule(20, 3, 0.05, 0.03, 0.6, 1.0, 0.01, 1.0, 0.5),
)

Case = dict[str, object]


def claims() -> EnclaveClaims:
    """Claims of an open round, with keys from the seeds above."""
    return EnclaveClaims(
        fleet=FLEET,
        suite=DEFAULT.name,
        manifest=Digest.of(b"a manifest"),
        round=7,
        opened_at=1_800_000_000,
        epoch=9,
        step=6,
        policy=POLICY.digest,
        cohort=ZERO,
        model=Digest.of(b"a model"),
        state=Digest.of(b"a state"),
        receipt=Digest.of(b"a receipt"),
        kem_key=KemPrivateKey.from_seed(DEFAULT, KEM_SEED).public.raw,
        signing_key=SigningKey.from_seed(DEFAULT, SIGNING_SEED).verify_key.raw,
    )


def spelling() -> Iterator[Case]:
    """Values and their one spelling; and bytes that are none, with why."""
    for value in (0, 23, 24, -1, 2**64 - 1, "ü", b"\x00", [1, [True, None]], 1.5, -0.0):
        shown = {"bytes": value.hex()} if isinstance(value, bytes) else value
        yield {"cbor": codec.encode(value).hex(), "value": shown, "expect": "ok"}
    bad = {
        "1800": "malformed",  # not in the shortest form
        "0000": "malformed",  # something after the value
        "9fff": "malformed",  # indefinite length
        "a10000": "malformed",  # a map
        "c000": "malformed",  # a tag
        "61ff": "malformed",  # no UTF-8
        "f93c00": "malformed",  # a float in 16 bits
        "fb7ff8000000000000": "not_finite",
        "8200": "malformed",  # truncated
    }
    for spelled, reason in bad.items():
        yield {"cbor": spelled, "expect": reason}


def digests() -> Iterator[Case]:
    """What is hashed, and how."""
    said = claims()
    yield {"what": "policy", "record": POLICY.to_bytes().hex(), "digest": str(POLICY.digest)}
    yield {"what": "claims", "record": said.to_bytes().hex(), "digest": str(said.digest)}
    yield {
        "what": "report_data",
        "record": said.to_bytes().hex(),
        "digest": said.report_data.hex(),
    }
    leaf = update_leaf(DEVICE, Digest.of(b"an update"))
    yield {"what": "update leaf", "record": leaf.hex(), "digest": str(Digest.of(b"\0", leaf))}


def signed() -> Iterator[Case]:
    """Signed messages, with the key and context that they verify under."""
    key = SigningKey.from_seed(DEFAULT, SIGNING_SEED)
    receipt = UpdateReceipt(FLEET, DEVICE, 7, CERTIFICATE, ReceiptStatus.ACCEPTED, "")
    data = sign(receipt, key)
    base: Case = {"context": "qflare/1/update-receipt", "verify_key": key.verify_key.raw.hex()}
    yield {**base, "signed": data.hex(), "message": receipt.to_bytes().hex(), "expect": "ok"}
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    yield {**base, "signed": damaged.hex(), "expect": "bad_signature"}
    other = codec.encode(
        [receipt.to_bytes(), key.sign(RoundReceipt.CONTEXT, receipt.to_bytes()).raw]
    )
    yield {**base, "signed": other.hex(), "expect": "bad_signature"}


def updates() -> Iterator[Case]:
    """Sealed updates, with the keys that verify and open them."""
    said, key = claims(), SigningKey.from_seed(DEFAULT, SIGNING_SEED)
    payload = UpdatePayload(137, bytes(range(200)), (30, 20, 25, 10, 0, 3, 51_200, 40_960))
    for aead in DEFAULT.aeads:
        data = seal_update(payload, said, DEVICE, CERTIFICATE, key, aead)
        base: Case = {
            "aead": aead.name,
            "kem_seed": KEM_SEED.hex(),
            "device_key": key.verify_key.raw.hex(),
            "info": seal_info(said.digest, DEVICE, 7, CERTIFICATE).hex(),
        }
        yield {**base, "update": data.hex(), "payload": payload.to_bytes().hex(), "expect": "ok"}
        damaged = data[:-1] + bytes([data[-1] ^ 1])
        yield {**base, "update": damaged.hex(), "expect": "wrong_digest"}


def encodings() -> Iterator[Case]:
    """Encoded updates and their exact values in units of 2^-F."""
    rng = np.random.Generator(np.random.PCG64(1))
    delta = rng.normal(0, 0.01, 300).astype(np.float32)
    for name, kind in CODECS.items():
        payload, vector = encode(delta, kind, rng, 16.0)
        yield {
            "codec": name,
            "size": 300,
            "payload": payload.hex(),
            "units": vector.units().tolist(),
        }


def sizes() -> Iterator[Case]:
    """Padding: a payload of this length (before its end mark) is padded to that."""
    for length in (1, 100, 512, 1000, 3057, 65_536, 1_000_000):
        yield {"length": length, "bucket": bucket(length)}


def cohorts() -> Iterator[Case]:
    """Who is invited."""
    names = [DeviceId.parse(f"device-{i}") for i in range(10)]
    seed = Digest.of(b"a seed")
    for count in (1, 3, 10):
        chosen = list(choose(seed, names, count))
        yield {"seed": str(seed), "candidates": names, "count": count, "chosen": chosen}


def rollouts() -> Iterator[Case]:
    """What is rolled out, and which devices are among the first."""
    names = [DeviceId.parse(f"device-{i}") for i in range(10)]
    for permille in (0, 300, 1000):
        offer = BundleOffer(Digest.of(b"a bundle"), 40_000_000, permille)
        message = Rollout(FLEET, (offer,))
        reached = [name for name in names if offer.reaches(name)]
        yield {"message": message.to_bytes().hex(), "devices": names, "reached": reached}


def reports() -> Iterator[Case]:
    """What a device says of itself, field by field; and what is no such message, with why."""
    gate = GateSays("power", "closed", "battery at 12 %, wants 30 % or mains power")
    figures = (("battery_percent", 12), ("celsius", 48))
    health = Health("0.1.0", "rpi4", "", "", "", (gate,), ("make room",), figures)
    report = DeviceReport(FLEET, DEVICE, 3, 7, health)
    yield {"message": report.to_bytes().hex(), "expect": "ok"}
    value = report.to_value()
    texts, lists = value[-1][:5], value[-1][5:]  # type: ignore[index]
    turned = [*value[:-1], [*texts, *lists[:-1], [["celsius", 48], ["battery_percent", 12]]]]
    wordy = [*value[:-1], ["v" * 201, *texts[1:], *lists]]
    short = [*value[:-1], [*texts, *lists[:-1]]]
    for wrong, reason in ((turned, "bad_value"), (wordy, "bad_value"), (short, "malformed")):
        spelled = codec.encode([DeviceReport.TAG, *wrong])
        yield {"message": spelled.hex(), "expect": reason}


SETS = (spelling, digests, signed, updates, encodings, sizes, cohorts, rollouts, reports)


def main() -> None:
    """Write one file for each set."""
    FOLDER.mkdir(exist_ok=True)
    for make in SETS:
        body = {"protocol": 1, "about": make.__doc__, "cases": list(make())}
        (FOLDER / f"{make.__name__}.json").write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()

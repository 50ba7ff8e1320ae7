"""The protocol's published vectors: what another implementation would be held to, we are too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qflare import codec
from qflare.cohort import choose
from qflare.compression import bucket, pad, parse_codec
from qflare.compression.codecs import decode
from qflare.crypto.keys import KemPrivateKey, VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import Update, open_signed, seal_info
from qflare.faults import PeerFault
from qflare.merkle import leaf_hash
from qflare.messages import EnclaveClaims, UpdateReceipt
from qflare.names import DeviceId, Digest
from qflare.policy import RoundPolicy
from qflare.report import DeviceReport
from qflare.rollout import Rollout

FOLDER = Path(__file__).parents[1] / "vectors" / "protocol"
CEILING = 1 << 20


def cases(name: str) -> list[Any]:
    found = json.loads((FOLDER / f"{name}.json").read_text())["cases"]
    assert found
    return list(found)


def outcome(attempt: Any) -> str:
    try:
        attempt()
    except PeerFault as fault:
        return str(fault.reason)
    return "ok"


@pytest.mark.parametrize("case", cases("spelling"), ids=lambda case: case["cbor"])
def test_spelling(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["cbor"])
    assert outcome(lambda: codec.decode(data, CEILING)) == case["expect"]
    if case["expect"] == "ok":
        value = case["value"]
        value = bytes.fromhex(value["bytes"]) if isinstance(value, dict) else value
        assert codec.encode(value) == data
        assert codec.decode(data, CEILING) == value


@pytest.mark.parametrize("case", cases("digests"), ids=lambda case: case["what"])
def test_digests(case: dict[str, Any]) -> None:
    record = bytes.fromhex(case["record"])
    made = {
        "policy": lambda: str(RoundPolicy.parse(record).digest),
        "claims": lambda: str(EnclaveClaims.parse(record).digest),
        "report_data": lambda: EnclaveClaims.parse(record).report_data.hex(),
        "update leaf": lambda: str(leaf_hash(record)),
    }
    assert made[case["what"]]() == case["digest"]


@pytest.mark.parametrize("case", cases("signed"), ids=lambda case: case["expect"])
def test_signed(case: dict[str, Any]) -> None:
    key = VerifyKey.parse(DEFAULT, bytes.fromhex(case["verify_key"]))
    assert case["context"] == f"qflare/1/{UpdateReceipt.CONTEXT}"
    data = bytes.fromhex(case["signed"])
    assert outcome(lambda: open_signed(UpdateReceipt, data, key)) == case["expect"]
    if case["expect"] == "ok":
        assert open_signed(UpdateReceipt, data, key).to_bytes().hex() == case["message"]


@pytest.mark.parametrize("case", cases("updates"), ids=lambda c: f"{c['aead']}-{c['expect']}")
def test_updates(case: dict[str, Any]) -> None:
    update = Update.parse(bytes.fromhex(case["update"]), CEILING)
    key = VerifyKey.parse(DEFAULT, bytes.fromhex(case["device_key"]))
    assert outcome(lambda: update.verify(key)) == case["expect"]
    h = update.header
    assert seal_info(h.claims, h.device, h.round, h.certificate).hex() == case["info"]
    if case["expect"] == "ok":
        kem = KemPrivateKey.from_seed(DEFAULT, bytes.fromhex(case["kem_seed"]))
        assert update.open(kem).to_bytes().hex() == case["payload"]


@pytest.mark.parametrize("case", cases("encodings"), ids=lambda case: case["codec"])
def test_encodings(case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["payload"])
    vector = decode(payload, parse_codec(case["codec"]), case["size"])
    assert np.array_equal(vector.units(), np.array(case["units"], np.int64))


@pytest.mark.parametrize("case", cases("sizes"), ids=lambda case: str(case["length"]))
def test_sizes(case: dict[str, Any]) -> None:
    assert bucket(case["length"]) == case["bucket"]
    assert len(pad(bytes(case["length"] - 1))) == case["bucket"]


@pytest.mark.parametrize("case", cases("cohorts"), ids=lambda case: str(case["count"]))
def test_cohorts(case: dict[str, Any]) -> None:
    candidates = [DeviceId.parse(name) for name in case["candidates"]]
    assert list(choose(Digest.parse(case["seed"]), candidates, case["count"])) == case["chosen"]


@pytest.mark.parametrize("case", cases("reports"), ids=lambda case: case["expect"])
def test_reports(case: dict[str, Any]) -> None:
    message = bytes.fromhex(case["message"])
    assert outcome(lambda: DeviceReport.parse(message)) == case["expect"]
    if case["expect"] == "ok":
        assert DeviceReport.parse(message).to_bytes() == message


@pytest.mark.parametrize("case", cases("rollouts"), ids=lambda case: str(len(case["reached"])))
def test_rollouts(case: dict[str, Any]) -> None:
    (offer,) = Rollout.parse(bytes.fromhex(case["message"])).bundles
    names = [DeviceId.parse(name) for name in case["devices"]]
    assert [name for name in names if offer.reaches(name)] == case["reached"]

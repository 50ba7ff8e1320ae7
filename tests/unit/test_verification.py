"""What is remembered of an appraisal, and what `qflare enclave` says of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.events import KeepVerification
from edge_runtime.trusted_round import Trust, TrustedRound
from qflare.appraisal import AttestationResult
from qflare.cli import main
from qflare.envelope import sign
from qflare.faults import PeerFault
from qflare.host.evidence_command import remedy
from qflare.names import Digest
from qflare.policy import AppraisalPolicy
from qflare.topics import All
from qflare.verification import FILE, Verification
from tests.edge_lab import DEVICE, FLEET, NOW, Lab, evidence
from tests.edge_pilot import Pilot


@pytest.fixture
def lab() -> Lab:
    return Lab()


def taken(lab: Lab, late: int = 0, **changes: object) -> tuple[Trust, PeerFault | None]:
    trust = Trust(lab.owner.verify_key, FLEET)
    lab.manifest_changes = changes
    trust.take_manifest(lab.signed_manifest())
    it = TrustedRound(trust, DEVICE)
    it.take_offer(sign(lab.offer(1), lab.coordinator))
    try:
        it.take_evidence(int(NOW) + late)
    except PeerFault as fault:
        return trust, fault
    return trust, None


def test_every_step_that_was_passed_is_there(lab: Lab) -> None:
    trust, fault = taken(lab)
    assert fault is None
    record = trust.verification
    assert record is not None
    assert (record.reason, record.round, record.manifest) == ("", 1, lab.manifest.digest)
    assert record.passed[0][0] == "owner manifest"
    assert record.passed[-1][0] == "evidence binds the claims"
    assert Verification.parse(record.to_bytes()) == record


def test_a_refusal_stops_where_it_failed(lab: Lab) -> None:
    revoked = AppraisalPolicy(tier=0, revoked=(lab.manifest.reference_values[0].measurement,))
    trust, fault = taken(lab, appraisal=revoked)
    assert fault is not None
    record = trust.verification
    assert record is not None
    assert (record.reason, record.detail) == (fault.reason.value, fault.detail)
    assert "reference value" not in dict(record.passed)
    assert "newer enclave" in remedy(record.detail)


def test_an_offer_that_is_long_closed_is_no_success(lab: Lab) -> None:
    trust, fault = taken(lab, late=10**7)
    assert fault is not None
    assert trust.verification is not None
    assert trust.verification.reason == "stale_epoch"


def test_the_outcome_is_that_of_appraise(lab: Lab) -> None:
    manifest = lab.manifest
    claims = lab.claims(1)
    long = replace(evidence(claims), provider="x" * 5000)
    record, outcome = Verification.run(long, claims, manifest, int(NOW))
    assert isinstance(outcome, PeerFault)
    assert len(record.to_bytes()) < Verification.CEILING
    record, outcome = Verification.run(evidence(claims), claims, manifest, int(NOW))
    assert isinstance(outcome, AttestationResult) == (record.reason == "")


def test_the_device_keeps_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pilot = Pilot()
    pilot.connect()
    pilot.to_all(All.MANIFEST, pilot.lab.signed_manifest())
    for _ in range(2):
        pilot.to_all(All.OFFER, sign(pilot.lab.offer(1), pilot.lab.coordinator))
    kept = [effect for effect in pilot.done if isinstance(effect, KeepVerification)]
    assert len(kept) == 1
    (tmp_path / FILE).write_bytes(kept[0].record)
    assert main(["enclave", "explain", str(tmp_path)]) == 0
    assert "simulated (proves nothing" in capsys.readouterr().out


def test_explain_says_what_to_do(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust, _ = taken(lab, reference_values=(), allow_insecure=True)
    assert trust.verification is not None
    (tmp_path / "r").write_bytes(trust.verification.to_bytes())
    assert main(["enclave", "explain", str(tmp_path / "r"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["accepted"]
    assert "qflare enclave measure" in told["what_to_do"]


def test_verify_shows_the_steps_of_an_offer(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offer = sign(lab.offer(1), lab.coordinator)
    files = {
        "manifest": lab.signed_manifest(),
        "owner": lab.owner.verify_key.raw,
        "offer": offer,
        "forged": offer[:-1] + bytes([offer[-1] ^ 1]),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    more = ["--manifest", str(tmp_path / "manifest"), "--owner", str(tmp_path / "owner")]
    assert main(["enclave", "verify", str(tmp_path / "offer"), *more, "--at", str(int(NOW))]) == 0
    assert "passed  reference value" in capsys.readouterr().out
    late = ["--at", str(2**41)]
    assert main(["enclave", "verify", str(tmp_path / "offer"), *more, *late]) == 1
    assert "qflare manifest sign" in capsys.readouterr().out
    assert main(["enclave", "verify", str(tmp_path / "forged"), *more]) == 1
    assert "bad_signature" in capsys.readouterr().err


def test_measure_is_what_the_enclave_says_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from enclave.measure import measure

    assert main(["enclave", "measure", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["measurement"] == str(measure().measurement)
    assert Digest.parse(told["not_covered"]["numpy"]["record"])


@given(st.binary(max_size=300))
def test_garbage_is_a_fault_and_nothing_else(data: bytes) -> None:
    with pytest.raises(PeerFault):
        Verification.parse(data)

"""Whole appraisals of a TPM's and of Nitro's evidence: one thing is wrong, and its step fails."""

from dataclasses import replace
from typing import Any

import pytest

from qflare.appraisal import Appraisal, appraise
from qflare.faults import PeerFault
from qflare.messages import EnclaveClaims, Evidence
from qflare.names import Digest
from qflare.policy import AppraisalPolicy, OwnerManifest, ReferenceValue
from qflare.verifiers import tpm
from qflare.verifiers.facts import Tier
from qflare.verifiers.registers import nitro_measurement
from tests.enclave_kit import FLEET, Driver, Fleet
from tests.platforms.nitro import HOUR, NOW, PCRS, SoftwareNitro
from tests.platforms.tpm import EVENTS, SoftwareTpm, event_log, replayed

HOST, CLOUD = SoftwareTpm(), SoftwareNitro()
BOOTED = tpm.verify(HOST.evidence(bytes(64))).measurement
IMAGE = nitro_measurement(b"".join(PCRS[n] for n in range(3)))


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(count=1)


@pytest.fixture(scope="module")
def claims(fleet: Fleet) -> EnclaveClaims:
    driver = Driver(fleet)
    driver.ask(fleet.configure())
    return driver.opened(fleet.open_request()).claims


def accepting(fleet: Fleet, *values: ReferenceValue, **policy: Any) -> OwnerManifest:
    wanted = AppraisalPolicy(**{"tier": Tier.TPM} | policy)
    return replace(fleet.manifest, reference_values=values, appraisal=wanted)


def test_a_measured_host_passes_every_step(fleet: Fleet, claims: EnclaveClaims) -> None:
    evidence = HOST.evidence(claims.report_data, event_log())
    manifest = accepting(fleet, ReferenceValue("tpm", BOOTED, HOST.name))
    steps = Appraisal(evidence, claims, manifest, NOW)
    assert [passed.step for passed in steps.run()][2:] == [
        "evidence is genuine", "tier", "platform", "not debug", "reference value",
        "evidence binds the claims",
    ]  # fmt: skip
    assert steps.result.tier is Tier.TPM


REFERENCES = [
    (ReferenceValue("tpm", BOOTED, SoftwareTpm().name), "another TPM's key"),
    (ReferenceValue("tpm", BOOTED), "no key named: anybody's would do"),
    (ReferenceValue("tpm", Digest.of(b"other"), HOST.name), "another boot"),
    (ReferenceValue("process", BOOTED, HOST.name), "another provider"),
]


@pytest.mark.parametrize("value", [row[0] for row in REFERENCES], ids=[r[1] for r in REFERENCES])
def test_a_host_that_the_owner_did_not_name(
    fleet: Fleet, claims: EnclaveClaims, value: ReferenceValue
) -> None:
    with pytest.raises(PeerFault, match="is not a reference value"):
        appraise(HOST.evidence(claims.report_data), claims, accepting(fleet, value), NOW)


def test_a_host_that_booted_something_else(fleet: Fleet, claims: EnclaveClaims) -> None:
    events = (*EVENTS, (9, b"a shell in the initrd"))
    evidence = replace(HOST, pcrs=replayed(events)).evidence(claims.report_data, event_log(events))
    manifest = accepting(fleet, ReferenceValue("tpm", BOOTED, HOST.name))
    with pytest.raises(PeerFault, match="is not a reference value"):
        appraise(evidence, claims, manifest, NOW)


def test_fewer_registers_are_no_reference(fleet: Fleet, claims: EnclaveClaims) -> None:
    """Leaving out the register that would tell."""
    evidence = HOST.evidence(claims.report_data, selected=range(9))
    manifest = accepting(fleet, ReferenceValue("tpm", BOOTED, HOST.name))
    with pytest.raises(PeerFault, match="is not a reference value"):
        appraise(evidence, claims, manifest, NOW)


def test_a_host_is_no_hardware_enclave(fleet: Fleet, claims: EnclaveClaims) -> None:
    manifest = accepting(fleet, ReferenceValue("tpm", BOOTED, HOST.name), tier=Tier.HARDWARE)
    with pytest.raises(PeerFault, match="tier tpm, and the owner wants hardware"):
        appraise(HOST.evidence(claims.report_data), claims, manifest, NOW)


def test_a_quote_for_other_claims(fleet: Fleet, claims: EnclaveClaims) -> None:
    """As when a coordinator puts a key of its own into the claims."""
    manifest = accepting(fleet, ReferenceValue("tpm", BOOTED, HOST.name))
    other = replace(claims, kem_key=claims.kem_key[::-1])
    with pytest.raises(PeerFault, match="for other claims"):
        appraise(HOST.evidence(claims.report_data), other, manifest, NOW)
    assert claims.fleet == FLEET


def nitro(fleet: Fleet, **policy: Any) -> OwnerManifest:
    roots = {"tier": 0, "insecure_roots": (CLOUD.insecure_root,)}
    return accepting(fleet, ReferenceValue("nitro", IMAGE), **roots | policy)


def test_a_nitro_enclave_passes_every_step(fleet: Fleet, claims: EnclaveClaims) -> None:
    result = appraise(CLOUD.evidence(claims.report_data), claims, nitro(fleet), NOW)
    assert (result.tier, result.measurement) == (Tier.SIMULATED, IMAGE)  # a root of software


DEBUG = PCRS | {0: bytes(48)}
WRONG = [
    ({}, {"tier": 1}, 0, "tier simulated, and the owner wants process"),
    ({}, {"insecure_roots": ()}, 0, "is not Amazon's"),
    ({"pcrs": DEBUG}, {}, 0, "debug mode"),
    ({"pcrs": PCRS | {2: bytes(48)}}, {}, 0, "is not a reference value"),
    ({}, {"revoked": (IMAGE,)}, 0, "is revoked"),
    ({"report_data": None}, {}, 0, "for other claims"),
    ({}, {}, 3 * HOUR, "not of this time"),
]


@pytest.mark.parametrize(("changes", "policy", "later", "why"), WRONG)
def test_a_nitro_enclave_with_one_thing_wrong(
    fleet: Fleet,
    claims: EnclaveClaims,
    changes: dict[str, Any],
    policy: dict[str, Any],
    later: int,
    why: str,
) -> None:
    evidence: Evidence = CLOUD.evidence(**{"report_data": claims.report_data} | changes)
    with pytest.raises(PeerFault, match=why):
        appraise(evidence, claims, nitro(fleet, **policy), NOW + later)

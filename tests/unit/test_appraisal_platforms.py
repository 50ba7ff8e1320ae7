"""A whole appraisal over platforms of software: one thing is wrong, and its own step fails."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qflare.appraisal import Appraisal, appraise, appraise_release
from qflare.envelope import open_signed, sign
from qflare.faults import PeerFault
from qflare.messages import EnclaveClaims, Evidence
from qflare.names import Digest
from qflare.owners import open_manifest
from qflare.policy import AppraisalPolicy, OwnerManifest, ReferenceValue
from qflare.verifiers import dcap, snp
from tests.enclave_kit import FLEET, Driver, Fleet
from tests.platforms.dcap import DAY, MRENCLAVE, MRSIGNER, NOW, SoftwareDcap
from tests.platforms.snp import ID_KEY, TCB, SoftwareSnp

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
INTEL, AMD = SoftwareDcap(), SoftwareSnp()
STATUSES = ("UpToDate", "Committed")
Make = Callable[..., Evidence]


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(count=1)


@pytest.fixture(scope="module")
def claims(fleet: Fleet) -> EnclaveClaims:
    driver = Driver(fleet)
    driver.ask(fleet.configure())
    return driver.opened(fleet.open_request()).claims


def make(kind: str, claims: EnclaveClaims, **changes: Any) -> Evidence:
    if kind == "sev_snp":
        return AMD.evidence(claims.report_data, **changes)
    return INTEL.evidence(kind, claims.report_data, **changes)


def verified(evidence: Evidence) -> Any:
    roots = (INTEL.insecure_root, AMD.insecure_root)
    return (snp if evidence.provider == "sev_snp" else dcap).verify(evidence, roots, NOW)


def accepting(fleet: Fleet, *evidence: Evidence, **changes: Any) -> OwnerManifest:
    """A manifest whose reference values are what these pieces of evidence measured."""
    values = tuple(ReferenceValue(one.provider, verified(one).measurement) for one in evidence)
    policy = AppraisalPolicy(
        tier=0,
        tcb_statuses=STATUSES,
        insecure_roots=(INTEL.insecure_root, AMD.insecure_root),
    )
    of_policy = {k: v for k, v in changes.items() if hasattr(policy, k)}
    rest = {k: v for k, v in changes.items() if k not in of_policy}
    given = {"reference_values": values, "appraisal": replace(policy, **of_policy)} | rest
    return replace(fleet.manifest, **given)


ALL = pytest.mark.parametrize("kind", ["sgx", "tdx", "sev_snp"])


@ALL
def test_every_step_is_passed_in_order(fleet: Fleet, claims: EnclaveClaims, kind: str) -> None:
    evidence = make(kind, claims)
    steps = Appraisal(evidence, claims, accepting(fleet, evidence), NOW)
    assert [passed.step for passed in steps.run()][2:] == [
        "evidence is genuine", "tier", "platform", "not debug", "reference value",
        "evidence binds the claims",
    ]  # fmt: skip
    assert steps.result.provider == kind
    assert steps.result.tier.name == "SIMULATED"  # a root of software is worth nothing


@ALL
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tier": 1}, "tier simulated, and the owner wants process"),
        ({"tcb_statuses": ("OutOfDate",)}, "TCB is"),
        ({"insecure_roots": ()}, "its root"),
        ({"reference_values": ()}, "not a reference value"),
        ({"reference_values": (ReferenceValue("insecure_simulated", Digest.of(b"")),)},
         "not a reference value"),
    ],
    ids=["tier", "status", "roots", "no reference", "reference of another provider"],
)  # fmt: skip
def test_what_the_owner_wants_otherwise(
    fleet: Fleet, claims: EnclaveClaims, kind: str, changes: dict[str, Any], why: str
) -> None:
    evidence = make(kind, claims)
    with pytest.raises(PeerFault, match=why):
        appraise(evidence, claims, accepting(fleet, evidence, **changes), NOW)


@ALL
def test_a_revoked_measurement(fleet: Fleet, claims: EnclaveClaims, kind: str) -> None:
    evidence = make(kind, claims)
    manifest = accepting(fleet, evidence, revoked=(verified(evidence).measurement,))
    with pytest.raises(PeerFault, match="is revoked"):
        appraise(evidence, claims, manifest, NOW)


@ALL
def test_evidence_for_other_claims(fleet: Fleet, claims: EnclaveClaims, kind: str) -> None:
    """As when a coordinator puts a key of its own into the claims."""
    evidence = make(kind, claims)
    manifest = accepting(fleet, evidence)
    with pytest.raises(PeerFault, match="for other claims"):
        appraise(evidence, replace(claims, kem_key=claims.kem_key[::-1]), manifest, NOW)


@ALL
def test_endorsements_that_have_ended(fleet: Fleet, claims: EnclaveClaims, kind: str) -> None:
    evidence = make(kind, claims)
    manifest = accepting(fleet, evidence)
    with pytest.raises(PeerFault, match=r"[eE]xpired|not of this time"):
        appraise(evidence, claims, manifest, NOW + 181 * DAY)


@pytest.mark.parametrize("kind", ["sgx", "tdx"])
def test_what_intel_says_of_a_platform(fleet: Fleet, claims: EnclaveClaims, kind: str) -> None:
    good = make(kind, claims)
    for changes, policy, why in (
        ({"status": "OutOfDate"}, {}, "TCB is OutOfDate"),
        ({"status": "ConfigurationNeeded"}, {}, "TCB is ConfigurationNeeded"),
        ({"qe_status": "OutOfDate"}, {}, "TCB is OutOfDate"),
        ({"advisories": ("INTEL-SA-00615",)}, {"refused_advisories": ("INTEL-SA-00615",)},
         "advisory INTEL-SA-00615"),
        ({"evaluation": 16}, {"tcb_evaluation": 17}, "TCB list 16"),
    ):  # fmt: skip
        evidence = make(kind, claims, **changes)
        with pytest.raises(PeerFault, match=why):
            appraise(evidence, claims, accepting(fleet, good, **policy), NOW)
    allowed = make(kind, claims, status="SWHardeningNeeded", advisories=("INTEL-SA-00615",))
    manifest = accepting(fleet, good, tcb_statuses=("SWHardeningNeeded",), tcb_evaluation=17)
    facts = appraise(allowed, claims, manifest, NOW).facts
    assert (facts.tcb_status, facts.advisories) == ("SWHardeningNeeded", ("INTEL-SA-00615",))


def test_amd_has_no_list_of_tcbs_to_be_too_old(fleet: Fleet, claims: EnclaveClaims) -> None:
    evidence = make("sev_snp", claims)
    assert appraise(evidence, claims, accepting(fleet, evidence, tcb_evaluation=17), NOW)


def test_what_amds_report_says_of_itself(fleet: Fleet, claims: EnclaveClaims) -> None:
    good = make("sev_snp", claims)
    for changes, why in (
        ({"policy": 0xB_0000}, "debug mode"),
        ({"committed": TCB | {"ucode": 1}}, "TCB is Provisional"),
    ):
        with pytest.raises(PeerFault, match=why):
            appraise(make("sev_snp", claims, **changes), claims, accepting(fleet, good), NOW)
    manifest = accepting(fleet, good, tcb_statuses=("UpToDate",))
    with pytest.raises(PeerFault, match="TCB is Committed"):
        appraise(good, claims, manifest, NOW)


@pytest.mark.parametrize(
    ("kind", "signer"),
    [
        ("sgx", Digest(MRSIGNER)),
        ("sev_snp", Digest.of(b"qflare/1/sev-snp-signer\0", ID_KEY)),
    ],
)
def test_code_by_its_signer_product_and_version(
    fleet: Fleet, claims: EnclaveClaims, kind: str, signer: Digest
) -> None:
    evidence = make(kind, claims)
    svn, said = verified(evidence).svn, []

    def accepts(value: ReferenceValue) -> bool:
        try:
            appraise(evidence, claims, accepting(fleet, reference_values=(value,)), NOW)
        except PeerFault as fault:
            said.append(fault.detail)
            return False
        return True

    wanted = ReferenceValue(kind, None, signer, product=7, svn=svn)
    assert accepts(wanted)
    assert accepts(replace(wanted, svn=0))
    assert not accepts(replace(wanted, svn=svn + 1))
    assert not accepts(replace(wanted, product=8))
    assert not accepts(replace(wanted, signer=Digest.of(b"another")))
    other = "sgx" if kind == "sev_snp" else "sev_snp"
    assert not accepts(replace(wanted, provider=other))
    assert all("not a reference value" in detail for detail in said)


def test_a_provider_cannot_be_taken_for_another(fleet: Fleet, claims: EnclaveClaims) -> None:
    manifest = accepting(fleet, *(make(k, claims) for k in ("sgx", "tdx", "sev_snp")))
    assert Digest(MRENCLAVE) in [value.measurement for value in manifest.reference_values]
    for kind in ("sgx", "tdx", "sev_snp"):
        evidence = make(kind, claims)
        for other in ("sgx", "tdx", "sev_snp", "insecure_simulated", "nothing"):
            if other != kind:
                with pytest.raises(PeerFault):
                    appraise(replace(evidence, provider=other), claims, manifest, NOW)


def _flips(data: bytes, step: int) -> list[bytes]:
    masks = (1, 2, 4, 8, 16, 32, 64, 128, 255)
    return [
        data[:at] + bytes([data[at] ^ masks[at // step % 9]]) + data[at + 1 :]
        for at in range(0, len(data), step)
    ]


@pytest.mark.parametrize("kind", ["tdx", "sev_snp"])
def test_no_byte_of_claims_or_manifest_can_be_changed(
    fleet: Fleet, claims: EnclaveClaims, kind: str
) -> None:
    """Each byte of both; those of evidence and endorsements are in test_verify_*.py."""
    evidence = make(kind, claims)
    manifest = sign(accepting(fleet, evidence), fleet.owner)
    owner = fleet.owner.verify_key

    def accepted(claimed: bytes, signed: bytes) -> bool:
        try:
            found, _ = open_manifest(signed, owner, FLEET)
            appraise(evidence, EnclaveClaims.parse(claimed), found, NOW)
        except PeerFault:
            return False
        return True

    said = claims.to_bytes()
    assert accepted(said, manifest)
    assert open_signed(OwnerManifest, manifest, owner).reference_values
    assert not [changed for changed in _flips(manifest, 1) if accepted(said, changed)]
    steps = 9 if kind == "tdx" else 3  # each costs a whole appraisal
    assert not [changed for changed in _flips(said, steps) if accepted(changed, manifest)]


@ALL
def test_a_release_counts_when_its_endorsements_have_ended(
    fleet: Fleet, claims: EnclaveClaims, kind: str
) -> None:
    """Also under a manifest that was issued afterwards; an offer of then doesn't."""
    old = replace(claims, opened_at=NOW)
    evidence = make(kind, old)
    later = verified(evidence).expires + DAY
    manifest = accepting(fleet, evidence, issued=later, expires=later + DAY)
    assert appraise_release(evidence, old, manifest).provider == kind
    with pytest.raises(PeerFault, match=r"^evidence_refused"):
        appraise(evidence, old, manifest, NOW)

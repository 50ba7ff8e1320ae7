"""Evidence that real hardware made, where the folder with it is there; the clock stands still."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.endorsements import pack_collateral
from qflare.faults import PeerFault
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers import dcap, snp
from qflare.verifiers.facts import Tier
from qflare.verifiers.quote import trim

FOLDER = Path(
    os.environ.get("QFLARE_EVIDENCE_VECTORS")
    or Path(__file__).parents[2].parent / "shared" / "vectors"
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Parsed a serial number"),
    pytest.mark.skipif(
        not (FOLDER / "dcap-qvl").is_dir(),
        reason=f"no public evidence in {FOLDER}; QFLARE_EVIDENCE_VECTORS names its folder",
    ),
]
THEN = int(datetime(2025, 6, 20, tzinfo=UTC).timestamp())
DER = Encoding.DER


def quote(name: str, kind: str) -> Evidence:
    body = (FOLDER / "dcap-qvl" / name).read_bytes()
    collateral = (FOLDER / "dcap-qvl" / f"{name}_collateral.json").read_text()
    return Evidence(kind, trim(body), pack_collateral(collateral))


def test_an_sgx_quote() -> None:
    facts = dcap.verify(quote("sgx_quote", "sgx"), (), THEN)
    assert facts.tier is Tier.HARDWARE
    assert facts.report_data.startswith(b"Hello, world!")
    assert str(facts.measurement).startswith("33d8736db756ed49")
    assert facts.tcb_status == "ConfigurationAndSWHardeningNeeded"  # which no policy likes
    assert facts.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert facts.tcb_evaluation == 17
    assert THEN < facts.expires < THEN + 30 * 86_400


def test_a_tdx_quote() -> None:
    facts = dcap.verify(quote("tdx_quote", "tdx"), (), THEN)
    assert (facts.tier, facts.tcb_status) == (Tier.HARDWARE, "UpToDate")
    assert dict(facts.registers)["mr_td"].hex().startswith("91eb2b44d141d4ec")


@pytest.mark.parametrize("kind", ["sgx", "tdx"])
def test_a_real_quote_ages_with_its_collateral(kind: str) -> None:
    for now in (THEN + 31 * 86_400, THEN - 31 * 86_400):
        with pytest.raises(PeerFault, match=r"expired|future|Expired"):
            dcap.verify(quote(f"{kind}_quote", kind), (), now)


def test_a_tdx_quote_of_an_outdated_platform() -> None:
    """Its collateral is of another month; at no time is it up to date."""
    evidence = quote("tdx_quote_outdated", "tdx")
    for day in range(-60, 400, 10):
        try:
            assert dcap.verify(evidence, (), THEN + day * 86_400).tcb_status != "UpToDate"
        except PeerFault:
            continue


def certificates(name: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((FOLDER / "go-sev-guest" / name).read_bytes())


@pytest.mark.parametrize(
    ("name", "product"),
    [("ask_ark_milan.pem", "Milan"), ("ask_ark_genoa.pem", "Genoa"),
     ("ask_ark_turin_vcek.pem", "Turin"), ("milanvlek.testcer", "Milan")],
)  # fmt: skip
def test_amds_roots_are_those_that_are_pinned(name: str, product: str) -> None:
    ask, ark = certificates(name)
    assert snp.AMD_ROOTS[Digest.of(ark.public_bytes(DER))] == product
    ark.verify_directly_issued_by(ark)
    ask.verify_directly_issued_by(ark)


class _NoList:
    """AMD's revocation list is not among the public vectors; this one revokes nothing."""

    signature = b""
    next_update_utc = last_update_utc = datetime(2025, 6, 20, tzinfo=UTC)

    def __init__(self, issuer: x509.Name) -> None:
        self.issuer = issuer

    def is_signature_valid(self, key: Any) -> bool:
        return True

    def get_revoked_certificate_by_serial_number(self, serial: int) -> None:
        return None


def test_a_report_of_a_milan_in_debug_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    ask, ark = certificates("ask_ark_milan.pem")
    entries = {
        "vcek": (FOLDER / "go-sev-guest" / "vcek.testcer").read_bytes(),
        "ask": ask.public_bytes(DER),
        "ark": ark.public_bytes(DER),
    }
    body = (FOLDER / "go-sev-guest" / "attestation.bin").read_bytes()
    with pytest.raises(PeerFault, match="no CRL"):
        snp.verify(Evidence("sev_snp", body, snp.pack_table(entries)), (), THEN)
    monkeypatch.setattr(snp.x509, "load_der_x509_crl", lambda _: _NoList(ark.subject))
    table = snp.pack_table(entries | {"crl": b"\0"})
    facts = snp.verify(Evidence("sev_snp", body, table), (), THEN)
    assert (facts.tier, facts.debug) == (Tier.HARDWARE, True)
    for at in (0x50, 0x90, 0x180, 0x1A0, 0x2A0):
        bad = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        with pytest.raises(PeerFault):
            snp.verify(Evidence("sev_snp", bad, table), (), THEN)


def test_the_vectors_are_whole() -> None:
    """Collateral is JSON as Intel's service gives it; ours is smaller, and holds it all."""
    text = (FOLDER / "dcap-qvl" / "tdx_quote_collateral.json").read_text()
    assert len(pack_collateral(text)) < len(text) / 4
    found = dcap.Collateral.unpack(pack_collateral(text))
    assert found.tcb_info == json.loads(text)["tcb_info"]

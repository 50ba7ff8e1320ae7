"""The operator's file of endorsements, put into what the enclave says of a round."""

import asyncio
import json
import re
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path
from ssl import DER_cert_to_PEM_cert
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.config import EnclaveSection
from coordinator.daemon import Daemon
from coordinator.endorsements import endorsed, pack
from coordinator.events import ConfigureEnclave, EnclaveReplied
from qflare.crypto.suites import DEFAULT
from qflare.enclave_wire import RoundOpened
from qflare.envelope import open_signed, sign
from qflare.faults import LocalFault, PeerFault
from qflare.host.typed import parse
from qflare.messages import Checkpoint, Evidence, RoundOffer, cohort_digest
from qflare.names import DeviceId, Digest
from qflare.verifiers import dcap, snp
from qflare.verifiers.dcap import Collateral
from tests.enclave_kit import Driver, Fleet
from tests.platforms.dcap import NOW, SoftwareDcap
from tests.platforms.snp import SoftwareSnp

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
DATA = bytes(range(64))


def as_json(found: Collateral) -> str:
    """Collateral in the form that dcap-qvl fetches."""

    def chain(certificates: tuple[bytes, ...]) -> str:
        return "".join(map(DER_cert_to_PEM_cert, (*certificates, found.root)))

    return json.dumps(
        {
            "pck_crl_issuer_chain": "",
            "root_ca_crl": found.root_crl.hex(),
            "pck_crl": found.pck_crl.hex(),
            "tcb_info_issuer_chain": chain(found.tcb_chain),
            "tcb_info": found.tcb_info,
            "tcb_info_signature": found.tcb_signature.hex(),
            "qe_identity_issuer_chain": chain(found.qe_chain),
            "qe_identity": found.qe_identity,
            "qe_identity_signature": found.qe_signature.hex(),
        }
    )


def as_pem(platform: SoftwareSnp) -> bytes:
    from cryptography import x509

    crl = x509.load_der_x509_crl(platform.crl())
    return b"".join(
        one.public_bytes(Encoding.PEM) for one in (platform.key, platform.ask, platform.ark, crl)
    )


@pytest.fixture(scope="module")
def opened() -> RoundOpened:
    fleet = Fleet()
    driver = Driver(fleet)
    driver.ask(fleet.configure())
    return driver.opened(fleet.open_request())


def test_intels_collateral(tmp_path: Path, opened: RoundOpened) -> None:
    platform, path = SoftwareDcap(), tmp_path / "collateral.json"
    bare = Evidence("tdx", platform.quote("tdx", DATA))
    path.write_text(as_json(platform.collateral("tdx")))
    whole = endorsed(replace(opened, evidence=bare), path)
    assert (whole.claims, whole.cohort) == (opened.claims, opened.cohort)
    assert dcap.verify(whole.evidence, (platform.insecure_root,), NOW).tcb_evaluation == 17
    path.write_text(as_json(platform.collateral("tdx", evaluation=18)))  # as when it is renewed
    again = endorsed(whole, path)
    assert dcap.verify(again.evidence, (platform.insecure_root,), NOW).tcb_evaluation == 18


@pytest.mark.parametrize("shared", [False, True])
def test_amds_certificates(tmp_path: Path, opened: RoundOpened, shared: bool) -> None:
    platform, path = SoftwareSnp(shared=shared), tmp_path / "certificates.pem"
    bare = Evidence("sev_snp", platform.report(DATA))
    path.write_bytes(as_pem(platform))
    whole = endorsed(replace(opened, evidence=bare), path)
    assert snp.verify(whole.evidence, (platform.insecure_root,), NOW).report_data == DATA


def test_a_file_that_is_of_no_use_leaves_the_evidence_as_it_was(
    tmp_path: Path, opened: RoundOpened
) -> None:
    platform, path = SoftwareDcap(), tmp_path / "file"
    first = replace(opened, evidence=platform.evidence("tdx", DATA))
    assert endorsed(first, path) == first
    for bad in (b"", b"{}", b"\xff", b"[" * 100_000, bytes(300 * 1024)):
        path.write_bytes(bad)
        assert endorsed(first, path) == first
    big = replace(platform.collateral("tdx"), tcb_info="".join(map(chr, range(33, 40_000))))
    path.write_text(as_json(big))
    assert len(big.pack()) > Evidence.CEILING
    assert endorsed(first, path) == first


@pytest.mark.parametrize(
    ("provider", "data", "why"),
    [
        ("tdx", b"{}", "no collateral"),
        ("sgx", b'{"tcb_info": 3}', "no collateral"),
        ("sev_snp", b"", "found nothing"),
        ("sev_snp", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "in PEM"),
        ("insecure_simulated", b"", "no endorsements"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(provider: str, data: bytes, why: str) -> None:
    with pytest.raises(LocalFault, match=why):
        pack(provider, data)


def test_a_part_that_is_missing_is_named() -> None:
    platform = SoftwareSnp()
    pem = platform.key.public_bytes(Encoding.PEM) + platform.ark.public_bytes(Encoding.PEM)
    with pytest.raises(LocalFault, match="found ark, vcek"):
        pack("sev_snp", pem)


def test_the_page_for_owners_names_the_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "enclave-hardware.md").read_text()
    block = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    found = parse(EnclaveSection, tomllib.loads(textwrap.dedent(block[1]))["enclave"])
    assert found.endorsements == Path("/var/lib/qflare/collateral.json")


def test_the_daemon_reads_the_file_for_each_round_that_is_opened(
    tmp_path: Path, opened: RoundOpened
) -> None:
    platform, path = SoftwareDcap(), tmp_path / "collateral.json"
    bare = replace(opened, evidence=Evidence("tdx", platform.quote("tdx", DATA)))
    said: list[EnclaveReplied] = []
    daemon = SimpleNamespace(_models=None, _endorsements=path, _put=said.append)
    for evaluation in (17, 18):
        path.write_text(as_json(platform.collateral("tdx", evaluation=evaluation)))
        request = ConfigureEnclave()
        asyncio.run(Daemon._on_reply(daemon, request, bare.to_bytes(), 0.1))  # type: ignore[arg-type]
    replies = [event.reply for event in said]
    assert all(isinstance(reply, RoundOpened) for reply in replies)
    roots = (platform.insecure_root,)
    assert [dcap.verify(r.evidence, roots, NOW).tcb_evaluation for r in replies] == [17, 18]


def test_the_largest_evidence_fits_the_largest_offer(opened: RoundOpened) -> None:
    fleet = Fleet(count=1)
    cohort = tuple(DeviceId.parse(f"device-of-thirty-two-letters-{n:03}") for n in range(512))
    claims = replace(opened.claims, cohort=cohort_digest(cohort))
    evidence = Evidence("tdx", bytes(12_000), bytes(Evidence.CEILING - 12_016))
    assert Evidence.CEILING - 16 < len(evidence.to_bytes()) <= Evidence.CEILING
    checkpoint = Checkpoint(1, Digest.of(b""))
    offer = RoundOffer(claims.fleet, 1, fleet.policy, cohort, claims, evidence, checkpoint, 2**40)
    signed = sign(offer, fleet.coordinator)
    assert open_signed(RoundOffer, signed, fleet.coordinator.verify_key) == offer
    assert DEFAULT.name == claims.suite
    with pytest.raises(PeerFault):
        Evidence.parse(replace(evidence, body=bytes(12_100)).to_bytes())

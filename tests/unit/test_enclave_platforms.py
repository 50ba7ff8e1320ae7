"""Evidence providers before stand-ins for their platforms: the same code, another root path."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from enclave.events import Persist
from enclave.evidence.gramine import Gramine
from enclave.evidence.tsm import ENTRY, Tsm
from enclave.machine import EnclaveMachine
from qflare.appraisal import appraise
from qflare.enclave_wire import Released, RoundOpened
from qflare.faults import LocalFault
from qflare.messages import Evidence
from qflare.policy import AppraisalPolicy, ReferenceValue
from qflare.verifiers import dcap, snp
from qflare.verifiers.facts import Facts
from tests.enclave_kit import FLEET, Driver, Fleet, after
from tests.platforms.configfs import configfs, why_not
from tests.platforms.dcap import MRENCLAVE, NOW, SoftwareDcap
from tests.platforms.gramine import gramine_directory
from tests.platforms.snp import SoftwareSnp

DATA = bytes(range(64))
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
needs_fuse = pytest.mark.skipif(bool(why_not()), reason=why_not())


@contextmanager
def tdx_at(path: Path) -> Iterator[SoftwareDcap]:
    platform = SoftwareDcap()
    zeros = bytes(70)  # as some quoting services leave after a quote
    with configfs(path, "tdx_guest", lambda data: (platform.quote("tdx", data) + zeros, b"")):
        yield platform


@contextmanager
def snp_at(path: Path, level: int = 0) -> Iterator[SoftwareSnp]:
    platform = SoftwareSnp()
    table = snp.pack_table(platform.entries())
    with configfs(path, "sev_guest", lambda data: (platform.report(data, level=level), table)):
        yield platform


def tdx_facts(platform: SoftwareDcap, evidence: Evidence) -> Facts:
    whole = Evidence(evidence.provider, evidence.body, platform.collateral("tdx").pack())
    return dcap.verify(whole, (platform.insecure_root,), NOW)


@needs_fuse
def test_a_quote_of_a_trust_domain(tmp_path: Path) -> None:
    with tdx_at(tmp_path / "report") as platform:
        provider = Tsm(tmp_path / "report")
        facts = tdx_facts(platform, provider.quote(DATA))
        again = tdx_facts(platform, provider.quote(DATA[::-1]))
    assert provider.name == "tdx"
    assert (facts.report_data, again.report_data) == (DATA, DATA[::-1])
    assert facts.measurement == provider.measurement


@needs_fuse
def test_a_report_of_a_guest(tmp_path: Path) -> None:
    with snp_at(tmp_path / "report") as platform:
        provider = Tsm(tmp_path / "report")
        evidence = provider.quote(DATA)
    table = snp.pack_table(platform.entries())
    whole = Evidence(evidence.provider, evidence.body, table)
    facts = snp.verify(whole, (platform.insecure_root,), NOW)
    assert provider.name == "sev_snp"
    assert facts.report_data == DATA
    assert facts.measurement == provider.measurement


@needs_fuse
def test_a_platform_that_refuses_is_a_fault_of_ours(tmp_path: Path) -> None:
    with tdx_at(tmp_path / "report"):
        provider = Tsm(tmp_path / "report")
        with pytest.raises(LocalFault, match="gives no evidence"):
            provider.quote(DATA + b"x")
    with pytest.raises(LocalFault, match="no evidence in"):
        Tsm(tmp_path / "nothing")


@needs_fuse
def test_another_process_that_asks_between_is_noticed(tmp_path: Path) -> None:
    """Else its report data could be in what we take for our evidence."""
    path = tmp_path / "report"
    with tdx_at(path):
        provider = Tsm(path)
        asked: list[int] = []
        generation = provider._generation

        def between() -> int:
            if not asked:
                asked.append(1)
                found = generation()
                (path / ENTRY / "inblob").write_bytes(DATA[::-1])
                return found
            return generation()

        provider._generation = between  # type: ignore[method-assign]
        with pytest.raises(LocalFault, match="another process"):
            provider.quote(DATA)
        assert provider.quote(DATA)


@needs_fuse
def test_a_platform_of_another_kind(tmp_path: Path) -> None:
    with (
        configfs(tmp_path / "report", "arm_cca_guest", lambda data: (data, b"")),
        pytest.raises(LocalFault, match="arm_cca_guest"),
    ):
        Tsm(tmp_path / "report")


@needs_fuse
def test_a_restart_abandons_the_round_and_goes_on_from_the_last_receipt(tmp_path: Path) -> None:
    """A round, a restart inside the next one: nothing of either enclave was on the disk."""
    fleet = Fleet()
    with tdx_at(tmp_path / "report") as platform:
        reference = ReferenceValue("tdx", Tsm(tmp_path / "report").measurement)
        policy = AppraisalPolicy(tier=0, insecure_roots=(platform.insecure_root,))
        changes: dict[str, Any] = {"reference_values": (reference,), "appraisal": policy}

        def machine(sealed: bytes | None = None, seed: int | None = None) -> EnclaveMachine:
            provider = Tsm(tmp_path / "report")
            key = fleet.owner.verify_key
            return EnclaveMachine(FLEET, key, provider, os.urandom, sealed, seed)

        fleet.machine = machine  # type: ignore[method-assign]
        driver = Driver(fleet)
        kept: list[bytes] = []
        driver.on_effect = lambda e: kept.append(e.sealed) if isinstance(e, Persist) else None
        driver.ask(fleet.configure(**changes))
        opened, released = driver.run_round(fleet.open_request())
        second = driver.opened(fleet.open_request(2, **after(opened, released)))
        taken = fleet.admit(0, second.claims)
        assert set(kept) == {b""}
        driver.restart()
        assert driver.refused(taken) == "round_closed"
        driver.ask(fleet.configure(**changes))
        assert driver.refused(taken) == "round_closed"
        third, model = driver.run_round(fleet.open_request(3, **after(opened, released)))

        assert isinstance(third, RoundOpened)
        assert isinstance(model, Released)
        assert third.claims.kem_key != second.claims.kem_key
        assert third.claims.signing_key != second.claims.signing_key
        manifest = type(fleet.manifest)(**(vars(fleet.manifest) | changes))
        for one in (opened, second, third):
            whole = Evidence("tdx", one.evidence.body, platform.collateral("tdx").pack())
            assert appraise(whole, one.claims, manifest, NOW).facts.measurement
            bare = Evidence("tdx", one.evidence.body)
            with pytest.raises(Exception, match="no endorsements"):
                appraise(bare, one.claims, manifest, NOW)


def test_a_quote_and_the_key_of_an_sgx_enclave(tmp_path: Path) -> None:
    platform = SoftwareDcap()
    root = gramine_directory(tmp_path / "attestation", platform, DATA)
    provider = Gramine(root)
    evidence = provider.quote(DATA)
    whole = Evidence("sgx", evidence.body, platform.collateral("sgx").pack())
    facts = dcap.verify(whole, (platform.insecure_root,), NOW)
    assert (root / "user_report_data").read_bytes() == DATA
    assert facts.report_data == DATA
    assert facts.measurement == provider.measurement
    assert facts.measurement.raw == MRENCLAVE

    sealed = provider.seal(b"secret")
    assert b"secret" not in sealed
    assert Gramine(root).unseal(sealed) == b"secret"
    (root / "keys" / "_sgx_mrenclave").write_bytes(bytes(16))
    with pytest.raises(LocalFault, match="other code"):
        Gramine(root).unseal(sealed)


def test_an_enclave_without_attestation(tmp_path: Path) -> None:
    root = gramine_directory(tmp_path / "attestation", SoftwareDcap(), DATA)
    with pytest.raises(LocalFault, match="no SGX quote"):
        Gramine(tmp_path / "elsewhere")
    (root / "keys" / "_sgx_mrenclave").unlink()
    with pytest.raises(LocalFault, match="no key for this code"):
        Gramine(root)
    (root / "quote").write_bytes(b"nothing")
    with pytest.raises(LocalFault, match="no SGX quote"):
        Gramine(root)

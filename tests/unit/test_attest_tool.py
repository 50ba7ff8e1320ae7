"""The tool for owners of hardware, before the stand-ins; and the manifest that Gramine reads."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.platforms.configfs import configfs, why_not
from tests.platforms.dcap import NOW, SoftwareDcap
from tests.platforms.gramine import gramine_directory
from tests.platforms.snp import CHIP, SoftwareSnp
from tests.unit.test_coordinator_endorsements import as_json, as_pem

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
ROOT = Path(__file__).parents[2]
needs_fuse = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("attest", ROOT / "tools" / "attest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verify(tool: ModuleType, folder: Path, root: object) -> int:
    return tool.main(
        ["verify", str(folder / "evidence"), "--endorsements", str(folder / "endorsements"),
         "--at", str(NOW), "--insecure-root", str(root)]
    )  # fmt: skip


def test_a_quote_of_sgx_there_and_back(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = SoftwareDcap()
    root = gramine_directory(tmp_path / "attestation", platform, tool.DATA)
    out = ["--output", str(tmp_path / "evidence")]
    assert tool.main(["quote", "gramine", "--root", str(root), *out]) == 0
    (tmp_path / "endorsements").write_text(as_json(platform.collateral("sgx")))
    assert verify(tool, tmp_path, platform.insecure_root) == 0
    said = capsys.readouterr().out
    assert "tier         simulated" in said
    assert "measurement  " + "11" * 32 in said
    (tmp_path / "endorsements").write_text(as_json(SoftwareDcap().collateral("sgx")))
    assert verify(tool, tmp_path, platform.insecure_root) == 1
    assert "is not Intel's" in capsys.readouterr().err


@needs_fuse
def test_a_report_of_sev_snp_there_and_back(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = SoftwareSnp()
    with configfs(tmp_path / "tsm", "sev_guest", lambda data: (platform.report(data), b"")):
        out = ["--output", str(tmp_path / "evidence")]
        assert tool.main(["quote", "tsm", "--root", str(tmp_path / "tsm"), *out]) == 0
    (tmp_path / "endorsements").write_bytes(as_pem(platform))
    assert verify(tool, tmp_path, platform.insecure_root) == 0
    said = capsys.readouterr().out
    assert "TCB          Committed" in said
    assert f"/vcek/v1/Milan/{CHIP.hex()}?blSPL=04&teeSPL=01&snpSPL=22&ucodeSPL=209" in said


def test_where_amd_keeps_a_turins_certificate(tool: ModuleType) -> None:
    report = SoftwareSnp("Turin").report(bytes(64), version=5)
    levels = "fmcSPL=02&blSPL=04&teeSPL=01&snpSPL=22&ucodeSPL=209"
    assert tool.certificate_url(report).endswith(f"/vcek/v1/Turin/{CHIP[:8].hex()}?{levels}")


def test_evidence_for_something_else(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = SoftwareDcap()
    evidence = platform.evidence("tdx", bytes(64))
    (tmp_path / "evidence").write_bytes(evidence.to_bytes())
    (tmp_path / "endorsements").write_text(as_json(platform.collateral("tdx")))
    assert verify(tool, tmp_path, platform.insecure_root) == 1
    assert "not asked for by this tool" in capsys.readouterr().err


def test_no_platform_is_said_to_be_none(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for platform in ("tsm", "gramine"):
        out = ["--output", str(tmp_path / "evidence")]
        assert tool.main(["quote", platform, "--root", str(tmp_path / "none"), *out]) == 1
        assert "docs/enclave-hardware.md" in capsys.readouterr().err


def test_gramines_manifest_allows_nothing_that_it_should_not() -> None:
    """As Gramine reads it: rendered, then TOML."""
    path = ROOT / "firmware_config" / "enclave" / "qflare-enclave.manifest.template"
    text = re.sub(r"\{\{ svn \}\}", "3", path.read_text())
    manifest = tomllib.loads(re.sub(r"\{\{ ([\w.()]+) \}\}", r"<\1>", text))
    sgx = manifest["sgx"]
    assert sgx["debug"] is False
    assert sgx["remote_attestation"] == "dcap"
    assert sgx["isvsvn"] == 3
    assert sgx["allowed_files"] == ["file:/var/lib/qflare-enclave/"]  # sealed by ourselves
    trusted = {one.removeprefix("file:").rstrip("/") for one in sgx["trusted_files"]}
    mounted = {one["uri"].removeprefix("file:") for one in manifest["fs"]["mounts"]}
    assert mounted - trusted == {"/var/lib/qflare-enclave"}
    assert "insecure" not in path.read_text()
    assert "passthrough" not in path.read_text()

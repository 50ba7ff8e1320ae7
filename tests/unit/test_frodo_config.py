"""What people are told whose configuration names a suite of old, or keys of two suites."""

from pathlib import Path

import pytest

from coordinator import daemon as coordinator
from edge_runtime import daemon as edge
from qflare.crypto import liboqs
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import FRODO640AES_MLDSA44 as SUITE
from qflare.crypto.suites import XWING_MLDSA65
from tests import coordinator_home, edge_lab
from tests.oqs_kit import needs_liboqs
from tests.unit.coordinator_rig import World
from tests.unit.test_edge_config import TOML


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device of a fleet of this suite."""
    monkeypatch.setattr(edge_lab, "DEFAULT", SUITE)
    owner, _, _, _, _, key, der = edge_lab.keys.__wrapped__()
    for name, content in (
        ("key", key.to_seed()),
        ("device.der", der),
        ("owner.key", owner.verify_key.raw),
        ("data.npz", b""),
        ("edge.toml", TOML.encode()),
    ):
        (tmp_path / name).write_bytes(content)
    return tmp_path / "edge.toml"


def complaint(toml: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert edge.main(["--config", str(toml), "--check"]) == 78
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


@needs_liboqs
def test_a_device_takes_its_suite_from_the_owners_key(
    device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge.main(["--config", str(device), "--check"]) == 0
    other = SigningKey.generate(SUITE)
    (device.parent / "key").write_bytes(other.to_seed())
    assert "not of device.key" in complaint(device, capsys)


@needs_liboqs
def test_a_device_with_an_owner_of_another_suite_does_not_start(
    device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (device.parent / "owner.key").write_bytes(SigningKey.generate(XWING_MLDSA65).verify_key.raw)
    assert "not of device.key" in complaint(device, capsys)
    (device.parent / "owner.key").write_bytes(bytes(1313))
    assert "no suite's verify key" in complaint(device, capsys)


@needs_liboqs
def test_a_device_without_liboqs_says_what_to_install(
    device: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OQS_INSTALL_PATH", str(device.parent))
    monkeypatch.setattr(liboqs, "find_library", lambda _: None)
    liboqs.library.cache_clear()
    assert "install liboqs 0.16" in complaint(device, capsys)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Dilithium2", "Dilithium2 became ML-DSA-44"),
        ("kyber768", "Kyber became ML-KEM"),
        ("none", "choose from xwing-mldsa65, frodo640aes-mldsa44"),
        ("frodo640aes-mldsa44", "the owner manifest doesn't allow suite 'frodo640aes-mldsa44'"),
    ],
)
def test_a_coordinators_suite_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    config = coordinator_home.found(tmp_path, World(), "mqtt://127.0.0.1:1", "secret")
    config.write_text(config.read_text().replace("xwing-mldsa65", name))
    assert coordinator.main(["--config", str(config), "--check"]) == 78
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told

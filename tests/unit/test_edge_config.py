"""edge.toml: what is wrong is said with the file and the remedy, and the status is 78."""

from pathlib import Path

import pytest

from edge_runtime import daemon, fleet
from edge_runtime.config import load, machine_settings
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from tests.edge_lab import DEVICE, FLEET, Lab

TOML = f"""
[device]
fleet = "{FLEET}"
name = "{DEVICE}"
state_dir = "state"
key = "key"
certificate = "device.der"
owner_key = "owner.key"
[broker]
url = "mqtt://127.0.0.1:1"
[data]
path = "data.npz"
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    lab = Lab()
    (tmp_path / "key").write_bytes(lab.key.to_seed())
    (tmp_path / "device.der").write_bytes(lab.der)
    (tmp_path / "owner.key").write_bytes(lab.owner.verify_key.raw)
    (tmp_path / "data.npz").write_bytes(b"")
    (tmp_path / "edge.toml").write_text(TOML)
    return tmp_path / "edge.toml"


def test_paths_are_relative_to_the_file(toml: Path) -> None:
    config = load(toml, {}).value
    assert config.device.state_dir == toml.parent / "state"
    settings = machine_settings(config)
    assert settings.identity.device == DEVICE


def test_check(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon.main(["--config", str(toml), "--check"]) == 0
    assert "dev-1 is ready" in capsys.readouterr().out
    assert not (toml.parent / "state").exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("[data]", "[data]\nkindd = 1"), "data.kindd"),
        (('name = "dev-1"', 'name = "Dev 1"'), "name"),
        (('name = "dev-1"', 'name = "dev-2"'), "certificate"),
        (('key = "key"', 'key = "none"'), "none"),
        (('owner_key = "owner.key"', 'owner_key = "key"'), "owner_key"),
        (('path = "data.npz"', 'path = "nothing.npz"'), "nothing.npz"),
        (("[broker]", '[broker]\npassword_file = "none"'), "password_file"),
    ],
)
def test_mistakes(
    toml: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], word: str
) -> None:
    toml.write_text(TOML.replace(*change))
    assert daemon.main(["--config", str(toml), "--check"]) == 78
    assert word in capsys.readouterr().err


def test_another_devices_certificate(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toml.parent / "key").write_bytes(SigningKey.generate(DEFAULT).to_seed())
    assert daemon.main(["--config", str(toml), "--check"]) == 78
    assert "not of device.key" in capsys.readouterr().err


def test_fleet_needs_devices_with_a_directory_each(
    toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert fleet.main(["--configs-from", str(tmp_path / "empty")]) == 78
    assert fleet.main(["--config", str(toml), "--config", str(toml)]) == 78
    assert "state_dir" in capsys.readouterr().err

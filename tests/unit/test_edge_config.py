"""edge.toml: what is wrong is said with the file and the remedy, and the status is 78."""

from pathlib import Path

import pytest

from edge_runtime import daemon, fleet
from edge_runtime.config import load, machine_settings
from edge_runtime.reloading import changes, training_settings
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


def test_credentials_come_before_the_files_beside_the_configuration(
    toml: Path, tmp_path: Path
) -> None:
    """systemd's LoadCredential= gives flat names; the files that it read are root's alone."""
    given = tmp_path / "credentials"
    given.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(given)}
    (given / "key").write_bytes((toml.parent / "key").read_bytes())
    (given / "device.der").write_bytes((toml.parent / "device.der").read_bytes())
    (given / "password").write_text("secret")
    (toml.parent / "key").unlink()
    toml.write_text(TOML.replace("[broker]", '[broker]\npassword_file = "keys/password"'))
    config = load(toml, environ).value
    assert config.device.key == given / "key"
    assert config.device.certificate == given / "device.der"
    assert config.broker.password_file == given / "password"
    assert machine_settings(config).identity.device == DEVICE
    assert load(toml, {}).value.device.key == toml.parent / "key"
    sensors = '[data]\nmqtt.password_file = "mqtt.password"'
    toml.write_text(TOML.replace("[data]", sensors))
    assert load(toml, environ).value.data.mqtt.password_file == toml.parent / "mqtt.password"
    (given / "mqtt.password").write_text("secret")
    assert load(toml, environ).value.data.mqtt.password_file == given / "mqtt.password"
    toml.write_text(TOML.replace('key = "key"', f'key = "{tmp_path}/nowhere/key"', 1))
    assert load(toml, environ).value.device.key == tmp_path / "nowhere/key"


def test_changes_are_named_by_their_keys(toml: Path) -> None:
    old = load(toml, {}).value
    text = TOML + "[training]\nduty = 0.5\n[process]\nmemory_mb = 256\n"
    toml.write_text(text.replace("127.0.0.1:1", "127.0.0.1:2"))
    new = load(toml, {}).value
    assert sorted(changes(old, new)) == ["broker.url", "process.memory_mb", "training.duty"]
    assert not [*changes(new, new)]
    kept = training_settings(new)
    assert (kept.process.memory_mb, kept.process.nice, kept.idle_s) == (256, 10, 120.0)

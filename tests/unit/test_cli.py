"""The command's front door: help, configuration, intruders."""

import json
from pathlib import Path

import pytest

from qflare import cli
from qflare.faults import LocalFault
from qflare.simulate import provision
from qflare.simulate.options import Options


@pytest.fixture
def edge_toml(tmp_path: Path) -> Path:
    tables = {
        "device": {
            "fleet": "fleet",
            "name": "dev-1",
            "state_dir": tmp_path / "state",
            "key": tmp_path / "device.seed",
            "certificate": tmp_path / "device.der",
            "owner_key": tmp_path / "owner.key",
        },
        "broker": {"url": "mqtt://host", "password_file": tmp_path / "password"},
        "data": {"kind": "npz", "path": tmp_path / "samples.npz"},
    }
    return provision.write_toml(tmp_path / "edge.toml", tables)


@pytest.mark.parametrize(
    "words", [["--help"], ["simulate", "--help"], ["config", "show", "--help"]]
)
def test_help_is_there(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    assert "usage: qflare" in capsys.readouterr().out


def test_config_show_says_where_each_value_came_from(
    edge_toml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QFLARE_EDGE__TRAINING__THREADS", "2")
    assert cli.main(["config", "show", "edge", "--file", str(edge_toml), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["training.threads"] == {"value": 2, "source": "environment"}
    assert shown["broker.url"] == {"value": "mqtt://host", "source": "file"}
    assert shown["broker.protocol"] == {"value": "auto", "source": "default"}
    assert shown["device.key"]["value"].endswith("device.seed")  # a place, not a secret


def test_a_wrong_configuration_names_file_key_and_remedy(
    edge_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edge_toml.write_text(edge_toml.read_text() + "[nonsense]\nx = 1\n")
    assert cli.main(["config", "show", "edge", "--file", str(edge_toml)]) == 78
    said = capsys.readouterr().err
    assert str(edge_toml) in said
    assert "nonsense" in said
    assert "correct its name or remove it" in said


def test_a_package_of_our_name_from_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "packages_distributions", lambda: {"enclave": ["qflare", "intruder"]})
    with pytest.raises(LocalFault, match="intruder"):
        cli.refuse_intruders()


def test_a_run_can_be_repeated_by_its_command() -> None:
    assert Options().command == "qflare simulate"
    assert Options(devices=5, seed=7).command == "qflare simulate --devices=5 --seed=7"

"""The command's front door: help, configuration, intruders."""

import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints, entry_points
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


Room = Callable[[str, str], None]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    """Installs a module, whose source is given, as the room that brings the command `broken`."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        point = EntryPoint("broken", f"{module}:add_parser", "qflare.commands")

        def found(**asked: str) -> EntryPoints:
            return EntryPoints([*entry_points(**asked), *EntryPoints([point]).select(**asked)])

        monkeypatch.setattr(cli, "entry_points", found)

    return install


HALF = """
def add_parser(commands):
    commands.add_parser("broken", help="all is well")
    import no_such_library
"""


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("room_lacks", "import no_such_library", "needs no_such_library"),
        ("room_old", "from json import no_such_name", "no_such_name"),
        ("room_linked", "raise OSError('libx.so: 100% no such file')", "100% no such file"),
        ("room_stale", "", "add_parser"),
        ("room_half", HALF, "needs no_such_library"),
    ],
)
def test_a_command_that_cannot_be_imported_is_listed_with_why(
    module: str, source: str, why: str, room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    room(module, source)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count(" broken ") == 1
    assert why in shown
    assert " token tickets by which devices join " in shown  # the rooms after it are there
    for words in (["broken"], ["broken", "--help"], ["broken", "x", "--y", "z"]):
        assert cli.main(words) == 1
        said = capsys.readouterr().err
        assert why in said
        assert "install" in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("qflare.simulate.command", "pip install 'qflare[demo]'"),
        ("coordinator.rollout.command", "pip install 'qflare[coordinator]'"),
        ("edge_runtime.provision.command", "pip install 'qflare[provision]'"),
        ("edge_runtime.device_command", "pip install 'qflare[edge]'"),
        ("somebody.elses", "install that"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(module: str, wanted: str) -> None:
    point = EntryPoint("broken", f"{module}:add_parser", "qflare.commands")
    said = cli.remedy(point, ModuleNotFoundError("no module", name="librarian"))
    assert "needs librarian" in said
    assert wanted in said


@pytest.mark.parametrize("name", ["matplotlib", "rich", "sqlalchemy", "alembic"])
def test_simulate_asks_for_what_it_will_need_before_it_starts(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # Python's own way of an import that fails
    assert cli.main(["simulate", "--workdir", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert f"needs {name}; run: pip install 'qflare[demo]'" in said
    assert not (tmp_path / "run").exists()


def test_help_shows_how_to_build_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "qflare model build" in capsys.readouterr().out.split("examples:")[1]

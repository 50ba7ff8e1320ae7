"""What a technician sees of the slots, and the way back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.slots import Slots
from qflare.names import Digest
from tests.serving_rig import ROOT, file_of, manifest_of, write_config

ONE, TWO, BAD = (Digest.of(bytes([i])) for i in range(3))


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    made = Slots(tmp_path / "state" / "model")
    for i, model in enumerate((ONE, TWO)):
        made.stage(model, file_of(model), manifest_of(model, 9))
        made.activate(model, i + 1, 1_800_000_000.0)
    made.refuse(BAD, "accuracy 0.4 is too low")
    return made


def qflare(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = "import argparse, sys; from edge_runtime.slots_command import add_parser; "
    code += "from qflare.faults import LocalFault\n"
    code += "parser = argparse.ArgumentParser(); add_parser(parser.add_subparsers())\n"
    code += "arguments = parser.parse_args(sys.argv[1:])\n"
    code += "try: sys.exit(arguments.run(arguments))\n"
    code += "except LocalFault as fault: sys.exit(str(fault))"
    command = [sys.executable, "-c", code, "slots", "--config", str(config), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_shows_and_rolls_back(slots: Slots, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    shown = qflare(config)
    assert shown.returncode == 0, shown.stderr
    for word in (
        TWO.short,
        ONE.short,
        BAD.short,
        "accuracy 0.4",
        "9 of 10",
        "2027-01-15",
        "round 2",
    ):
        assert word in shown.stdout
    rolled = qflare(config, "--json", "rollback", "--reason", "the pump stopped")
    tree = json.loads(rolled.stdout)
    assert tree["active"]["model"] == str(ONE)
    assert tree["previous"] is None
    assert {"model": str(TWO), "reason": "the pump stopped"} in tree["refused"]
    assert slots.state.active == str(ONE)
    again = qflare(config, "rollback")
    assert again.returncode == 1
    assert "no model before" in again.stderr
    lifted = qflare(config, "lift", str(BAD)[:6])
    assert lifted.returncode == 0, lifted.stderr
    assert BAD not in slots.refused
    assert "no refused model" in qflare(config, "lift", "ffffffff").stderr


def test_before_the_first_model(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert "no models yet" in qflare(config).stderr
    Slots(tmp_path / "state" / "model")
    assert "active    none" in qflare(config).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_root_leaves_nothing_that_the_daemon_cannot_open(slots: Slots, tmp_path: Path) -> None:
    for path in [slots.link.parent, *slots.link.parent.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    assert qflare(write_config(tmp_path), "rollback").returncode == 0
    for path in [slots.link.parent, *slots.link.parent.rglob("*")]:
        assert path.lstat().st_uid == 12345

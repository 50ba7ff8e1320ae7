"""The unit under a real systemd: ready, watched, sandboxed, stopped, and not restarted for nothing.

`MemoryMax=` can't be tried in a container; that is for a whole machine.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.slots import Slots
from tests import models
from tests.e2e import nspawn
from tests.edge_lab import DEVICE, FLEET, Lab
from tests.serving_rig import put_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EDGE_TOML = f"""\
[device]
fleet = "{FLEET}"
name = "{DEVICE}"
state_dir = "/var/lib/qflare"
key = "device.seed"
certificate = "device.der"
owner_key = "owner.key"
[broker]
url = "mqtt://127.0.0.1:1"
[data]
kind = "npz"
path = "/var/lib/qflare/data/samples.npz"
"""


def provision(tree: Path) -> None:
    """As enrolment leaves two devices behind; nobody answers as their broker."""
    lab = Lab()
    etc, state = tree / "etc/qflare", tree / "var/lib/qflare"
    enrol(etc, lab, EDGE_TOML + "[serving]\nidle_exit_s = 1\n")
    enrol(etc / "second", lab, EDGE_TOML.replace("/var/lib/qflare", "/var/lib/qflare/second"))
    samples = state / "data/samples.npz"
    samples.parent.mkdir()
    x = np.zeros((20, 128, 6), np.float32)
    y = np.zeros(20, np.int32)
    np.savez(samples, x_train=x, y_train=y, x_test=x, y_test=y)
    second = state / "second/data"
    shutil.copytree(samples.parent, second)
    put_model(Slots(state / "model"), 1)
    owner = state.stat()
    for made in state.rglob("*"):
        os.chown(made, owner.st_uid, owner.st_gid)


def enrol(etc: Path, lab: Lab, config: str) -> None:
    etc.mkdir(exist_ok=True)
    files = {
        "device.seed": (lab.key.to_seed(), 0o600),
        "broker.password": (b"not a secret", 0o600),
        "device.der": (lab.der, 0o644),
        "owner.key": (lab.owner.verify_key.raw, 0o644),
        "edge.toml": (config.encode(), 0o644),
    }
    for name, (data, mode) in files.items():
        (etc / name).write_bytes(data)
        (etc / name).chmod(mode)


def run(folder: Path) -> str:
    """One run of the machine; what its trial saw."""
    tree, wheels = folder / "tree", folder / "wheels"
    wheels.mkdir()
    nspawn.make(tree, wheels)
    provision(tree)
    trial = tree / "opt/trial"
    trial.mkdir()
    shutil.copy(Path(models.__file__).parent / "classifier.tflite", trial / "model.tflite")
    shutil.copy(nspawn.ROOT / "systemd/drop-ins/serial.conf", trial)
    (trial / "dialout").write_text("x")
    (trial / "dialout").chmod(0o640)
    nspawn.within(tree, "chgrp", "dialout", "/opt/trial/dialout")
    said = nspawn.boot(tree, nspawn.ROOT / "tests/e2e/systemd_trial.py")
    shutil.rmtree(tree)
    return said


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen in one run of the machine."""
    return nspawn.once(tmp_path_factory, "systemd", run)


def test_it_is_ready_and_says_what_it_does(told: dict[str, Any]) -> None:
    started = told["started"]
    assert (started["ActiveState"], started["SubState"]) == ("active", "running"), told["log"]
    assert started["NRestarts"] == "0"
    assert started["StatusText"]
    lines = [line for line in told["children"].splitlines() if "qflare-edge" in line]
    assert [line.split()[0] for line in lines] == ["qflare"]


def test_the_sandbox_lets_it_write_its_state_alone(told: dict[str, Any]) -> None:
    found = told["probe"]
    assert "failed" not in found, found
    for place in ("/etc", "/usr", "/opt/qflare", "/var"):
        assert found[f"write {place}"] == "Read-only file system"
    assert found["write /home"] != "done"
    assert found["write state"] == "done"
    assert found["read seed"] == "Permission denied"
    assert found["packet socket"] == "Address family not supported by protocol"
    assert found["internet socket"] == "done"
    assert found["credentials"] == {"broker.password": 12, "device.seed": 32}
    status = found["status"]
    assert status["Uid"] != "0"
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert found["nice"] == 10


def test_a_model_trains_inside_the_sandbox(told: dict[str, Any]) -> None:
    code, said, wrong = told["probe"]["training"]
    assert code == 0, (said, wrong)
    assert json.loads(said)["ok"] is True


def test_the_drop_in_for_serial_lines_gives_the_group_in_spite_of_private_users(
    told: dict[str, Any],
) -> None:
    assert told["probe"]["read dialout"] == "Permission denied"
    assert told["serial probe"]["read dialout"] == "done"


def test_profiles_of_boards_come_with_the_wheel(told: dict[str, Any]) -> None:
    code, said = told["board"]
    assert code == 0, said
    assert said.startswith("rpi4: Raspberry Pi 4\n")


def test_provisioning_starts_in_its_sandbox_and_ends_where_there_is_no_serial_line(
    told: dict[str, Any],
) -> None:
    found = told["provisiond"]
    if found["ExecMainStatus"] == "203":
        pytest.skip("the wheel that was built has no qflare-provisiond")
    assert (found["ExecMainStatus"], found["NRestarts"]) == ("78", "0"), told["provisiond log"]
    assert "no serial line" in told["provisiond log"]


def test_a_hung_daemon_is_noticed_and_started_again(told: dict[str, Any]) -> None:
    assert told["fed"], told["log"]
    assert told["noticed"], told["log"]
    assert told["back"], told["log"]
    assert told["other process"]
    assert "Watchdog timeout" in told["log"] or "watchdog" in told["log"]


def test_a_second_device_runs_beside_it(told: dict[str, Any]) -> None:
    second = told["second"]
    assert (second["ActiveState"], second["SubState"]) == ("active", "running"), told["second log"]
    assert second["MainPID"] != told["started"]["MainPID"]
    assert "device.sqlite" in told["second state"]


def test_an_application_in_the_group_gets_answers_and_nobody_else(told: dict[str, Any]) -> None:
    for asked in ("asked", "asked again"):
        code, said, wrong = told[asked]
        assert code == 0, (wrong, told["model log"])
        outputs = json.loads(said)
        assert np.shape(outputs) == (3, 3)
        np.testing.assert_allclose(np.sum(outputs, axis=1), 1, atol=1e-5)
    assert told["asked"][1] == told["asked again"][1]
    code, _, wrong = told["stranger asked"]
    assert code != 0
    assert "Permission denied" in wrong


def test_the_model_s_server_ends_when_nobody_asks(told: dict[str, Any]) -> None:
    idle = told["idle server"]
    assert (idle["ActiveState"], idle["Result"], idle["ExecMainStatus"]) == (
        *("inactive", "success", "0"),
    )


def test_it_stops_in_time_and_as_asked(told: dict[str, Any]) -> None:
    assert told["stopped"]["Result"] == "success", told["log"]
    assert told["stopped"]["ExecMainStatus"] == "0"


def test_a_broker_without_password_needs_no_file(told: dict[str, Any]) -> None:
    assert told["without a password"]["ActiveState"] == "active", told["log"]


def test_a_wrong_configuration_is_not_tried_again(told: dict[str, Any]) -> None:
    found = told["wrong configuration"]
    assert (found["ActiveState"], found["ExecMainStatus"], found["NRestarts"]) == (
        *("failed", "78", "0"),
    )

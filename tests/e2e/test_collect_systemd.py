"""The collector under a real systemd, with its key from a TPM, in the sandbox of its unit.

The TPM is swtpm's; the container's systemd opens the credential through it as it would on a board.
"""

import secrets
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import nspawn
from tests.e2e.test_storage_tpm import creds
from tests.e2e.test_systemd import EDGE_TOML, enrol
from tests.edge_lab import Lab
from tests.keys_kit import running_tpm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DATA = """\
[data]
kind = "{kind}"
path = "/var/lib/qflare/samples"
channels = [{{ name = "v" }}]
format.fields = ["v", "what"]
label = {{ origin = "field", fields = ["what"] }}
ring.flush_s = 1
{more}
"""
SERIAL = 'serial.port = "socket://127.0.0.1:7001"'
MQTT = """\
mqtt = { url = "mqtt://127.0.0.1:7002", topics = ["x"], username = "imu", \
password_file = "mqtt.password" }
"""


def run(folder: Path) -> str:
    """One run of the machine; what its trial saw."""
    libraries = sorted(Path("/usr/lib").glob("*/libtss2-*.so.*"))
    if shutil.which("swtpm") is None or not any("tcti-swtpm" in it.name for it in libraries):
        pytest.skip("wants swtpm, libtss2-esys, libtss2-rc0, libtss2-mu0 and libtss2-tcti-swtpm0")
    tree, wheels = folder / "tree", folder / "wheels"
    wheels.mkdir()
    nspawn.make(tree, wheels)
    for library in libraries:
        target = tree / library.relative_to("/")
        shutil.copy(library, target, follow_symlinks=False)
    base = EDGE_TOML.split("[data]")[0]
    enrol(tree / "etc/qflare", Lab(), base + DATA.format(kind="serial", more=SERIAL))
    password = tree / "etc/qflare/mqtt.password"
    password.write_text("secret of sensors")
    password.chmod(0o600)
    (tree / "opt/trial").mkdir()
    (tree / "opt/trial/mqtt.toml").write_text(base + DATA.format(kind="mqtt", more=MQTT))
    for unit in ("qflare-collect", "qflare-edge"):
        drop_ins = tree / f"etc/systemd/system/{unit}.service.d"
        drop_ins.mkdir()
        shutil.copy(nspawn.ROOT / "systemd/drop-ins/storage-key.conf", drop_ins)
    manager = tree / "etc/systemd/system.conf.d/tpm.conf"
    manager.parent.mkdir()
    with running_tpm(tree / "opt/tpm") as device:
        manager.write_text(
            "[Manager]\nManagerEnvironment=SYSTEMD_TPM2_DEVICE=swtpm:path=/opt/tpm/socket\n"
        )
        (folder / "key").write_bytes(secrets.token_bytes(32))
        sealed = tree / "etc/qflare/storage.key.cred"
        done = creds("encrypt", device, "--with-key=tpm2", folder / "key", sealed)
        assert done.returncode == 0, done.stderr
        said = nspawn.boot(tree, nspawn.ROOT / "tests/e2e/collect_trial.py")
    shutil.rmtree(tree)
    return said


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen in one run of the machine."""
    return nspawn.once(tmp_path_factory, "collect", run)


def test_it_collects_in_its_sandbox_before_the_daemon_and_stops_well(told: dict[str, Any]) -> None:
    assert told["collects"], told["log"]
    assert told["unit"]["ActiveState"] == "active"
    assert "samples" in told["unit"]["StatusText"]
    assert told["unit"]["LimitCORE"] == "0"
    assert told["stopped"]["Result"] == "success"
    assert told["status"]["ok"]
    assert told["status"]["dropped"] == 0


def test_all_is_under_the_key_that_the_tpm_gave(told: dict[str, Any]) -> None:
    assert told["edge"]["ActiveState"] == "active", told["edge log"]
    assert told["seal"]
    assert "00000001.seg" in told["files"]
    assert told["in the clear"] == [False, False]


@pytest.mark.parametrize("unit", ["qflare-collect.service", "qflare-edge.service"])
def test_without_the_key_nothing_starts_or_is_touched(told: dict[str, Any], unit: str) -> None:
    shown, log = told[f"{unit} without key"]
    assert shown["ExecMainStatus"] == "78"
    assert shown["NRestarts"] == "0"
    assert "its key is not here" in log
    assert told["untouched"]


def test_a_password_comes_as_a_credential(told: dict[str, Any]) -> None:
    assert told["password given"], told["password log"]

"""What a device leaves on its card after `qflare device forget`: on a real ext4, to the last block.

Whoever takes the card looks into every file; of an encrypted device, into every block, for a file
system doesn't overwrite what it removes.
"""

import json
import os
import secrets
import signal
import struct
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.config import load
from edge_runtime.contract import parse_contract
from edge_runtime.slots import Slots
from edge_runtime.sources.collector import Collector
from edge_runtime.sources.opening import open_source
from edge_runtime.sources.record import Record
from edge_runtime.storage import forget as forgetting
from edge_runtime.storage.opening import SAMPLES, open_store, purpose_key
from qflare.cli import main
from tests.serving_rig import put_model
from tests.source_kit import motion, settle, watch_channels, zoo_bytes
from tests.unit.test_source_collector import Nobody
from tests.unit.test_storage_sealing import SECRETS, telling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="wants root, who alone can mount a disk"),
    pytest.mark.xdist_group("loop devices"),
]

CONFIG = """\
[device]
fleet = "yard"
name = "dev-1"
state_dir = "{disk}/state"
key = "device.seed"
certificate = "device.der"
owner_key = "owner.key"
[broker]
url = "mqtt://127.0.0.1:1"
password_file = "broker.password"
[storage]
{storage}
[log]
file = "{disk}/edge.log"
[serving]
directory = "{disk}/models"
[data]
rate_hz = 50
channels = {channels}
label = {{ origin = "field", fields = ["what"] }}
time.field = "t"
"""
COLLECTED = """\
kind = "mqtt"
path = "{disk}/ring"
format.encoding = "json"
mqtt = {{ topics = ["x"], password_file = "mqtt.password" }}
"""
TABLES = """\
kind = "csv"
path = "{owners}"
"""
CANARY = b"canary-of-the-owner"
VALUE = struct.unpack("<f", b"\xc1CAN")[0]  # a number that can be looked for
VALUES = struct.pack("<f", VALUE) * 6


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where a fresh ext4 of 64 MB is mounted."""
    image, mount = tmp_path / "image", tmp_path / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"wants loop devices: {done.stderr!r}")
    yield mount
    subprocess.run(["umount", mount], check=False)


def image(disk: Path) -> bytes:
    """Every block of the disk, after all is written."""
    subprocess.run(["umount", disk], check=True)
    data = disk.with_name("image").read_bytes()
    subprocess.run(["mount", "-o", "loop", disk.with_name("image"), disk], check=True)
    return data


def channels() -> str:
    return json.dumps([{"name": c.name, "unit": c.unit} for c in watch_channels()]).replace(
        '":', '" ='
    )


def live(home: Path, disk: Path, kind: str, encrypted: bool) -> Path:
    """A device's life in a minute: everything that it writes, written by what writes it."""
    home.mkdir()
    owners = home / "tables"
    owners.mkdir()
    storage = 'key_file = "storage.key"' if encrypted else ""
    (home / "storage.key").write_bytes(secrets.token_bytes(32))
    text = CONFIG + (COLLECTED if kind == "collected" else TABLES)
    config = home / "edge.toml"
    config.write_text(text.format(disk=disk, owners=owners, storage=storage, channels=channels()))
    tomllib.loads(config.read_text())
    names = ["device.seed", "device.der", "owner.key", "broker.password"]
    for name in [*names, *(["mqtt.password"] if kind == "collected" else [])]:
        (home / name).write_bytes(CANARY)
    made = load(config, {}).value
    state = made.device.state_dir
    store = open_store(state, made.storage, {})
    store.load()
    store.commit(telling(1))
    key = purpose_key(state, made.storage, {}, SAMPLES)
    rows = motion(2000, 1)
    rows[1000:1100] = VALUE
    if kind == "collected":
        collector = Collector(made.data, Nobody(), key)
        for i, row in enumerate(rows.tolist()):
            collector.inbox.put(Record(tuple(row), 1.7e9 + i / 50, CANARY.decode()))
        collector.turn(0.0)
        collector.close()
    else:
        names = ",".join(["t", "what", *(c.name for c in watch_channels())])
        lines = [
            f"{1.7e9 + i / 50:.2f},{CANARY.decode()}," + ",".join(f"{v:.9g}" for v in row)
            for i, row in enumerate(rows.tolist())
        ]
        (owners / "one.csv").write_text("\n".join([names, *lines]))
        settle(owners)
    contract = parse_contract(zoo_bytes("watch_cnn"))
    source = open_source(made.data, contract, state, None, key)
    assert source.report()["rows"] == 2000
    assert source.report()["left_out"]["unknown_label"] > 0
    put_model(Slots(disk / "models"), 1)
    (disk / "edge.log").write_bytes(CANARY)
    (state / "update" / "staged").mkdir(parents=True)
    (state / "update" / "staged" / "2.qflare").write_bytes(CANARY)
    store.close()
    return config


def forget(config: Path, *more: str, kill: bool = False) -> int:
    """In a process of its own, that may be killed after the first thing it erased; its status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    real = forgetting._remove

    def remove(path: Path, overwrite: bool) -> None:
        real(path, overwrite)
        os.kill(os.getpid(), signal.SIGKILL)

    if kill:
        forgetting._remove = remove
    os._exit(main(["device", "forget", "--config", str(config), "--yes", *more]))


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kind", ["collected", "tables"])
def test_nothing_private_is_left(tmp_path: Path, disk: Path, kind: str, encrypted: bool) -> None:
    config = live(tmp_path / "home", disk, kind, encrypted)
    wanted = [VALUES, *SECRETS[:3]]
    before = image(disk)
    found = [text for text in wanted if text in before]
    assert found == ([] if encrypted else wanted)  # so that finding nothing later means something
    kills = 0
    while (status := forget(config, kill=True)) == -signal.SIGKILL:
        kills += 1
        assert kills < 100
    assert status == 0
    assert kills >= 8
    assert not [path for path in disk.rglob("*") if not path.is_dir()]
    home = {path.name for path in (tmp_path / "home").iterdir()}
    assert home == {"edge.toml", "owner.key", "tables"} | (set() if encrypted else {"storage.key"})
    if encrypted:
        after = image(disk)
        assert not [text for text in wanted if text in after]
    if kind == "tables":
        assert (tmp_path / "home" / "tables" / "one.csv").exists()
        assert forget(config, "--data") == 0
        assert not (tmp_path / "home" / "tables").exists()

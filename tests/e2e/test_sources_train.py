"""Every kind of source ends in an update that the fleet counts: the daemon itself, at real edges.

A serial line is a pseudo-terminal, topics are a real broker's, tables and pictures are real files,
a plug-in is a package that pip installed. Samples are collected by the collector's own process.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from PIL import Image

from edge_runtime.enrol import edge_tables, enrol
from edge_runtime.sources.checksums import crc16
from edge_runtime.sources.framing import cobs
from edge_runtime.sources.ring import rows_collected
from qflare.host.broker import BrokerKind
from qflare.host.supervise import ChildSpec
from qflare.simulate import provision
from qflare.simulate.children import ENVIRONMENT, python
from qflare.simulate.data import fashion
from tests.joined_fleet import Fleet, joinable
from tests.source_kit import CLASSES, Cable, motion, settle, watch_channels
from tests.unit.test_source_mqtt import Broker

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e")]

KINDS = (1, 4)  # of motion, that are to be told apart
ROWS = 2000
CHANNELS = "\n".join(
    f'[[data.channels]]\nname = "{c.name}"\nunit = "{c.unit}"' for c in watch_channels()
)
FIELDS = [c.name for c in watch_channels()]


@dataclass
class Place:
    """A device's folder, and what it needs beside its configuration."""

    here: Path
    environment: dict[str, str] = field(default_factory=dict)
    feed: Callable[[], None] = lambda: None  # sends what is to be collected
    ends: list[Callable[[], None]] = field(default_factory=list)


def rows_of(kind: int) -> Iterator[tuple[int, str, list[float]]]:
    """Millisecond since some start, class, and values of each row."""
    for i, row in enumerate(motion(ROWS, kind, kind).tolist()):
        yield 1000 + 1_000_000 * kind + 20 * i, CLASSES[kind], row


def csv(place: Place) -> str:
    """With columns for time and label; some rows are wrong, and a sensor got stuck for a while."""
    folder = place.here / "tables"
    folder.mkdir()
    for kind in KINDS:
        lines = ["ms,exercise," + ",".join(FIELDS)]
        for number, (ms, label, row) in enumerate(rows_of(kind)):
            values = [f"{v:.6g}" for v in row]
            if 500 <= number < 900:
                values[2] = "0.25"
            lines.append(f"{ms},{label}," + ",".join(values))
        lines[1500] = "what is that?"
        (folder / f"{kind}.csv").write_text("\n".join(lines))
    settle(folder)
    return f"""
kind = "csv"
path = "tables"
rate_hz = 50
time = {{ field = "ms", unit = "ms" }}
holdout.span_s = 8
label = {{ origin = "field", fields = ["exercise"] }}
{CHANNELS}
[storage]
key_file = "storage.key"
"""


def parquet(place: Place) -> str:
    """With real times, and labels in a file of intervals."""
    pa = pytest.importorskip("pyarrow")
    folder = place.here / "tables"
    folder.mkdir()
    spans = ["start,end,label"]
    for kind in KINDS:
        start = 1_700_000_000_000_000 + kind * 10**9
        times = pa.array([start + 20_000 * i for i in range(ROWS)], pa.timestamp("us", "UTC"))
        columns = dict(zip(FIELDS, motion(ROWS, kind).T, strict=True))
        table = pa.table({"when": times, **columns})
        pytest.importorskip("pyarrow.parquet").write_table(table, folder / f"{kind}.parquet")
        spans.append(f"{start / 1e6:.6f},{start / 1e6 + ROWS / 50:.6f},{CLASSES[kind]}")
    (place.here / "labels.csv").write_text("\n".join(spans))
    settle(folder)
    return f"""
kind = "parquet"
path = "tables"
rate_hz = 50
time = {{ field = "when", unit = "s" }}
holdout.span_s = 8
label = {{ origin = "file", file = "labels.csv" }}
{CHANNELS}
"""


def archives(place: Place) -> str:
    folder = place.here / "archives"
    folder.mkdir()
    for kind in KINDS:
        x = motion(128 * 30, kind).reshape(30, 128, 6)
        np.savez(folder / f"{kind}.npz", x=x, y=np.full(30, kind, np.int32))
    settle(folder)
    return '\nkind = "npz-folder"\npath = "archives"\n'


def serial(place: Place) -> str:
    """COBS packets of a C structure with a CRC over a pseudo-terminal; encrypted when kept."""
    cable = Cable(place.here / "port")
    layout = np.dtype([("t", "<u4"), ("what", "u1"), ("v", "<f4", 6)])

    def feed() -> None:
        for kind in KINDS:
            for ms, _, row in rows_of(kind):
                body = np.array((ms, kind, row), layout).tobytes()
                cable.send(cobs(body + crc16(body).to_bytes(2, "little")) + b"\0")

    place.feed = feed
    names = "{ " + ", ".join(f'"{kind}" = "{CLASSES[kind]}"' for kind in KINDS) + " }"
    return f"""
kind = "serial"
path = "ring"
rate_hz = 50
serial = {{ port = "{cable.name}", framing = "cobs", checksum = "crc16" }}
format = {{ encoding = "struct", layout = "<IB6f", fields = {json.dumps(["t", "what", *FIELDS])} }}
time = {{ field = "t", unit = "ms", wraps_bits = 32 }}
holdout.span_s = 8
label = {{ origin = "field", fields = ["what"], names = {names} }}
ring = {{ flush_s = 1 }}
{CHANNELS}
[storage]
key_file = "storage.key"
"""


def topics(place: Place) -> str:
    """JSON messages on a topic of a broker nearby."""
    broker = Broker(place.here)
    place.ends.append(broker.end)

    def feed() -> None:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        for kind in KINDS:
            for number, (ms, label, row) in enumerate(rows_of(kind)):
                message = json.dumps({"ms": ms, "is": label, "imu": row})
                sent = client.publish("bench/imu", message, 1)
                if number % 50 == 49:
                    sent.wait_for_publish(60)
        client.disconnect()
        client.loop_stop()

    place.feed = feed
    channels = "\n".join(
        f'[[data.channels]]\nname = "{c.name}"\nunit = "{c.unit}"\nfield = "imu.{i}"'
        for i, c in enumerate(watch_channels())
    )
    return f"""
kind = "mqtt"
path = "ring"
rate_hz = 50
mqtt = {{ url = "mqtt://127.0.0.1:{broker.port}", topics = ["bench/#"] }}
format = {{ encoding = "json" }}
time = {{ field = "ms", unit = "ms" }}
holdout.span_s = 8
label = {{ origin = "field", fields = ["is"] }}
ring = {{ flush_s = 1 }}
{channels}
"""


PLUGIN = """\
[project]
name = "yard-sensors"
version = "1.0"
[project.entry-points."qflare.sources"]
yard = "yard_sensors:read"
yard-set = "yard_sensors:Examples"
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""
MODULE = """\
import json, time
import numpy as np

def read(options):
    for line in open(options["file"]):
        yield json.loads(line)
    while True:
        time.sleep(1)

class Part:
    def __init__(self, x, y, contract):
        says = contract.manifest.input
        self.x, self.y = (x - np.float32(says.mean)) / np.float32(says.scale), y
    def __len__(self):
        return len(self.y)
    def read(self, rows, x, y):
        if x is not None:
            x[: len(rows)] = self.x[rows]
        if y is not None:
            y[: len(rows)] = self.y[rows]

class Examples:
    def __init__(self, options, contract):
        with np.load(options["file"]) as made:
            self.parts = [Part(made["x"][i::2], made["y"][i::2], contract) for i in range(2)]
    def train(self):
        return self.parts[0]
    def test(self):
        return self.parts[1]
"""


def installed(place: Place) -> None:
    """A package of somebody else's, beside ours."""
    source, site = place.here / "package", place.here / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PLUGIN)
    (source / "yard_sensors.py").write_text(MODULE)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--target", site, source], check=True, timeout=120)
    place.environment["PYTHONPATH"] = str(site)


def plugin(place: Place) -> str:
    installed(place)
    with (place.here / "bus").open("w") as bus:
        for kind in KINDS:
            for ms, label, row in rows_of(kind):
                values = dict(zip(FIELDS, row, strict=True))
                bus.write(json.dumps({"ms": ms, "state": label, **values}) + "\n")
    return f"""
kind = "plugin"
path = "ring"
rate_hz = 50
plugin = {{ name = "yard", options = {{ file = "{place.here}/bus" }} }}
time = {{ field = "ms", unit = "ms" }}
holdout.span_s = 8
label = {{ origin = "field", fields = ["state"] }}
ring = {{ flush_s = 1 }}
{CHANNELS}
"""


def supplied(place: Place) -> str:
    installed(place)
    x = np.concatenate([motion(128 * 30, kind).reshape(30, 128, 6) for kind in KINDS])
    np.savez(place.here / "set.npz", x=x, y=np.repeat(np.array(KINDS, np.int32), 30))
    return f"""
kind = "plugin"
path = "nowhere"
plugin = {{ name = "yard-set", mode = "examples", options = {{ file = "{place.here}/set.npz" }} }}
"""


def pictures(place: Place) -> str:
    """JPEG files in a folder for each class, as a camera leaves them."""
    random = np.random.Generator(np.random.PCG64(1))
    for name, shade in (("coat", 60), ("bag", 190)):
        (place.here / "pictures" / name).mkdir(parents=True)
        for i in range(40):
            array = np.clip(random.normal(shade, 30, (56, 56)), 0, 255).astype(np.uint8)
            Image.fromarray(array).save(place.here / "pictures" / name / f"{i}.jpg")
    settle(place.here)
    return '\nkind = "camera"\npath = "pictures"\nlabel.origin = "folder"\n'


def unlabelled(place: Place) -> str:
    """Rows without time and label, for a model that learns what is usual."""
    random = np.random.Generator(np.random.PCG64(1))
    folder = place.here / "tables"
    folder.mkdir()
    lines = [",".join(f"f{i}" for i in range(1, 10))]
    lines += [",".join(f"{v:.5g}" for v in row) for row in random.normal(0, 1, (600, 9))]
    (folder / "usual.csv").write_text("\n".join(lines))
    settle(folder)
    quality = "quality = { stuck_rows = 0, drift = 0.0 }"
    return f'\nkind = "csv"\npath = "tables"\nholdout.span_rows = 20\n{quality}\n'


async def join(fleet: Fleet, name: str, ticket: Path, serial_number: str, make: Any) -> Place:
    """Enrol a device, give it its source, and start what reads it; the daemon isn't up yet."""
    place = Place(fleet.home / name)
    enrolled = await enrol(ticket.read_bytes(), place.here, "rpi4", serial_number, print)
    tables = edge_tables(enrolled)
    tables["device"]["state_dir"] = "state"
    tables["gates"] = {"enabled": False}  # the machine that tests is busy
    config = place.here / "edge.toml"
    provision.write_toml(config, tables)
    (place.here / "storage.key").write_bytes(os.urandom(32))
    section = await asyncio.to_thread(make, place)
    config.write_text(config.read_text() + "\n[data]" + section)
    ring = place.here / "ring"
    if 'path = "ring"' in section:
        command = python("edge_runtime.sources.collector", "--config", str(config))
        environment = {**ENVIRONMENT, **place.environment, "RUNTIME_DIRECTORY": str(place.here)}
        await fleet.supervisor.start(ChildSpec(f"{name}-collector", command, environment))
        await until(lambda: state_of(place) not in ("", "starting"))
        threading.Thread(target=place.feed, daemon=True).start()
        await until(lambda: rows_collected(ring) >= len(KINDS) * ROWS - 2, 150)
    return place


def state_of(place: Place) -> str:
    try:
        return str(json.loads((place.here / "collect.json").read_text())["state"])
    except OSError:
        return ""


async def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.2)


def released(fleet: Fleet) -> bool:
    return any(entry["published_at"] for entry in fleet.export()["rounds"])


async def one_round(home: Path, model: str, sources: list[Any]) -> Any:
    """A round of devices with these sources; what the coordinator remembers of it."""
    places: list[Place] = []
    try:
        async with joinable(home, BrokerKind.MOSQUITTO, len(sources), model=model) as fleet:
            words = ("token", "new", "--count", str(len(sources)), "--out", str(home / "tickets"))
            tickets = await asyncio.to_thread(fleet.operator, *words)
            for i, (ticket, make) in enumerate(zip(tickets, sources, strict=True)):
                number = f"1000000000{i:06d}"
                name = f"{i}-{make.__name__}"
                places.append(await join(fleet, name, Path(ticket["file"]), number, make))
            for place in places:
                command = python("edge_runtime.daemon", "--config", str(place.here / "edge.toml"))
                environment = {**ENVIRONMENT, **place.environment}
                await fleet.supervisor.start(ChildSpec(place.here.name, command, environment))
            await until(lambda: released(fleet), 150)
            return await asyncio.to_thread(fleet.export)
    finally:
        for place in places:
            for end in place.ends:
                end()


def log_of(home: Path, name: str) -> str:
    return "".join(path.read_text() for path in (home / "logs").glob(f"{name}*"))


@pytest.mark.parametrize(
    ("model", "sources"),
    [
        ("watch_cnn", [csv, parquet, archives, serial, topics, plugin, supplied]),
        ("fashion_cnn", [pictures]),
        ("shuttle_autoencoder", [unlabelled]),
    ],
    ids=["motion", "camera", "no labels"],
)
def test_every_kind_of_source_ends_in_an_update_that_counts(
    tmp_path: Path, model: str, sources: list[Any]
) -> None:
    if model == "fashion_cnn" and not Path(fashion.FOLDER).is_dir():
        pytest.skip("wants Fashion-MNIST; install the package dataset-fashion-mnist")
    exported = asyncio.run(one_round(tmp_path, model, sources))
    (only,) = exported["rounds"]
    assert (only["status"], only["admitted"]) == ("released", len(sources))
    assert not only["refused"]
    if csv in sources:
        # What was left out is in the daemon's log, and why, and what to do.
        said = log_of(tmp_path, "0-csv")
        assert "bad rows" in said
        assert "stuck" in said
        assert "check the sensor" in said
    if serial in sources:
        raw = b"".join(p.read_bytes() for p in (tmp_path / "3-serial/ring").glob("*.seg"))
        assert len(raw) > 4 * 6 * ROWS
        assert motion(ROWS, KINDS[0], KINDS[0])[1000].tobytes() not in raw

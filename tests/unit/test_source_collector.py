"""The collector: few writes, nothing lost that was flushed, and it says how it is."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edge_runtime.sources import collector as collector_module
from edge_runtime.sources import plugin
from edge_runtime.sources.checksums import crc16
from edge_runtime.sources.collector import Collector, collect, try_out
from edge_runtime.sources.drivers import Status
from edge_runtime.sources.inbox import Inbox
from edge_runtime.sources.record import Record
from edge_runtime.sources.ring import cipher_of, rows_collected
from edge_runtime.sources.segment import segments
from edge_runtime.sources.settings import (
    Channel,
    DataSection,
    PluginSection,
    RingSection,
    TimeSection,
)
from edge_runtime.sources.tracks import Track
from edge_runtime.storage.opening import SAMPLES, StorageSection, purpose_key
from qflare import zoo
from qflare.faults import LocalFault
from qflare.host import logs
from tests.source_kit import Cable, wait_for

SETTINGS = DataSection(
    Path("ring"),
    "plugin",
    channels=(Channel("v"),),
    time=TimeSection("t"),
    ring=RingSection(1, 3600.0, 64),
    plugin=PluginSection("sensor"),
)


MODELS = Path(zoo.__file__).parent


class Nobody:
    """A driver for tests that put samples into the inbox themselves."""

    status = Status("quiet", True)

    def run(self, inbox: Inbox, stop: threading.Event) -> None:
        stop.wait()


@contextmanager
def collecting(tmp: Path) -> Iterator[Collector]:
    found = Collector(replace(SETTINGS, path=tmp / "ring"), Nobody())
    yield found
    found.close()


def tracks(folder: Path, key: bytes | None = None) -> list[Track]:
    return [Track(folder / name, number, cipher_of(key)) for number, name in segments(folder)]


def values(folder: Path, key: bytes | None = None) -> list[float]:
    return [v for t in tracks(folder, key) for v in t.values(0, len(t))[:, 0].tolist()]


def raw(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def put(collector: Collector, *numbers: float) -> None:
    for n in numbers:
        collector.inbox.put(Record((n,), 1.7e9 + n))
    collector.turn(0.0)


def test_a_disk_that_refuses_costs_nothing_until_too_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting(tmp_path) as collector:
        put(collector, 1.0)
        collector.flush()
        with monkeypatch.context() as patch:

            def full(_file: int) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "fdatasync", full)
            put(collector, 2.0)
            collector.flush()
            report = collector.report()
            assert not report["ok"]
            assert "the disk refuses samples: No space left" in report["state"]
            put(collector, 3.0)
            collector.flush()
            assert collector.report()["flush_failures"] == 2
        assert values(tmp_path / "ring") == [1.0]
        collector.flush()
        assert collector.report()["ok"]
        assert values(tmp_path / "ring") == [1.0, 2.0, 3.0]
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", full)
            patch.setattr(collector_module, "HELD_MAX", 10)
            put(collector, 4.0)
            collector.flush()
            assert collector.report()["lost"] == 1
        put(collector, 5.0)
    assert values(tmp_path / "ring") == [1.0, 2.0, 3.0, 5.0]
    broken = tracks(tmp_path / "ring")[0].columns.broken.tolist()
    assert broken == [True, False, False, True]  # what was lost leaves a mark


def test_the_oldest_make_room_and_the_count_goes_on(tmp_path: Path) -> None:
    with collecting(tmp_path) as collector:
        for first in range(0, 300_000, 60):
            for n in range(first, first + 60):
                collector.inbox.put(Record((float(n),), 1.7e9 + n))
            collector.turn(0.0)
            if first % 6000 == 0:
                collector.flush()
        collector.flush()
        size = sum(path.stat().st_size for path in (tmp_path / "ring").glob("*.seg"))
        assert 0.8 * 2**20 < size <= 2**20
        assert collector.report()["removed_files"] > 10
        assert collector.report()["flushes"] < 60
    kept = values(tmp_path / "ring")
    assert kept == [float(n) for n in range(300_000 - len(kept), 300_000)]
    assert rows_collected(tmp_path / "ring") == 300_000
    with collecting(tmp_path) as collector:
        assert collector.report()["rows"] == 300_000


def test_two_collectors_do_not_share_a_ring(tmp_path: Path) -> None:
    with (
        collecting(tmp_path),
        pytest.raises(LocalFault, match="another collector writes there"),
        collecting(tmp_path),
    ):
        pass


def test_another_sensor_begins_another_file(tmp_path: Path) -> None:
    with collecting(tmp_path) as collector:
        put(collector, 1.0)
    other = replace(SETTINGS, path=tmp_path / "ring", channels=(Channel("v", "mV"),))
    again = Collector(other, Nobody())
    again.inbox.put(Record((7.0,), 1.7e9))
    again.turn(0.0)
    again.close()
    assert [track.head.units for track in tracks(tmp_path / "ring")] == [("1",), ("mV",)]
    assert rows_collected(tmp_path / "ring") == 2


def test_a_plug_in_that_fails_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def sensor(options: dict[str, Any]) -> Iterator[Any]:
        calls.append(options)
        yield {"v": len(calls), "t": 1.7e9 + len(calls)}
        if len(calls) < 3:
            raise ZeroDivisionError("the wire is loose")
        yield {"v": "no number", "t": 1.0}
        while True:
            yield {"v": 9, "t": 1.8e9}
            threading.Event().wait(0.01)

    monkeypatch.setattr(plugin, "load_plugin", lambda name: sensor)
    settings = replace(
        SETTINGS, path=tmp_path / "ring", plugin=PluginSection("sensor", options={"bus": 1})
    )
    stop, status = threading.Event(), tmp_path / "collect.json"
    thread = threading.Thread(target=collect, args=(settings, stop, status))
    thread.start()
    wait_for(lambda: len(calls) == 3)
    stop.set()
    thread.join(10)
    assert calls == [{"bus": 1}] * 3
    assert values(tmp_path / "ring")[:4] == [1.0, 2.0, 3.0, 9.0]
    assert tracks(tmp_path / "ring")[0].columns.broken.tolist()[:5] == [True] * 4 + [False]
    report = json.loads(status.read_text())
    assert report["unreadable"] == 1
    assert report["ended"] == 2
    assert report["rows"] == rows_collected(tmp_path / "ring")
    monkeypatch.setattr(plugin, "load_plugin", lambda name: lambda options: iter([5]))
    assert "it yields int; a mapping" in try_out(settings, 0.3)["state"]


TOML = """
[device]
fleet = "demo"
name = "dev-1"
state_dir = "state"
key = "key"
certificate = "device.der"
owner_key = "owner.key"
[broker]
url = "mqtt://127.0.0.1:1"
[data]
kind = "serial"
path = "samples"
[[data.channels]]
name = "n"
[data.format]
fields = ["n"]
[data.serial]
port = "{port}"
checksum = "crc16"
[data.ring]
flush_s = 1
"""
LABELLED = """
[data.label]
origin = "field"
fields = ["what"]
"""


def test_older_samples_are_encrypted_when_a_device_gets_a_key(tmp_path: Path) -> None:
    """A file at each flush; nobody who reads meanwhile misses or repeats a row."""
    folder, settings = tmp_path / "ring", replace(SETTINGS, path=tmp_path / "ring")
    names = ["said"] * 3 + ["canary"] * 3
    for number, name in enumerate(names):
        plain = Collector(replace(settings, rate_hz=float(number)), Nobody())  # so in its own file
        plain.inbox.put(Record((float(number),), 1.7e9 + number, name))
        plain.close()
    before = values(folder)
    assert b"canary" in raw(folder)
    (folder / ".00000003.seg.0123.tmp").write_bytes(b"canary, half sealed when the power went")
    sealed = Collector(settings, Nobody(), bytes(32))
    assert not [*folder.glob(".*")]
    for number in range(len(names)):
        assert values(folder, bytes(32)) == [*before, *map(float, range(10, 10 + number))]
        sealed.inbox.put(Record((10.0 + number,), 1.7e9 + 10 + number, "later canary"))
        sealed.turn(0.0)
        sealed.flush()
    sealed.close()
    assert b"canary" not in raw(folder)
    assert rows_collected(folder) == 2 * len(names)


def test_a_file_with_a_hole_keeps_it_when_it_is_encrypted(tmp_path: Path) -> None:
    from edge_runtime.sources.sealed import Sealer

    with collecting(tmp_path) as collector:
        for number in range(3):
            put(collector, float(number))
            collector.flush()
    path = tmp_path / "ring" / "00000001.seg"
    data = bytearray(path.read_bytes())
    data[-34] ^= 1  # in the second of three blocks of 32 bytes
    path.write_bytes(data)
    holed = Track(path, 1)
    assert len(holed) == 2
    assert Sealer(bytes(32)).convert(path, 1)
    sealed = Track(path, 1, Sealer(bytes(32)))
    assert sealed.columns.time.tolist() == holed.columns.time.tolist()
    assert sealed.columns.broken.all()
    assert not Sealer(bytes(32)).convert(path, 1)


def test_the_first_sample_of_a_process_follows_no_other(tmp_path: Path) -> None:
    """Also when it is stopped before it took one: nobody knows what was missed in between."""
    for number in range(2):
        with collecting(tmp_path) as collector:
            collector.inbox.put(Record((float(number),), 1.7e9 + number / 1e6))
    (track,) = tracks(tmp_path / "ring")
    assert track.columns.broken.tolist() == [True, True]


def test_a_file_with_an_unknown_end_is_mended_before_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write fails, and so does undoing it: what is written then can be read even so."""
    real = os.write

    def torn(file: int, data: Any) -> int:
        real(file, bytes(data[: len(data) // 2]))
        raise OSError(errno.EIO, "Input/output error")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with collecting(tmp_path) as collector:
        put(collector, 1.0)
        collector.flush()
        put(collector, 2.0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", torn)
            patch.setattr(os, "ftruncate", refuse)
            collector.flush()
        collector.flush()
    assert values(tmp_path / "ring") == [1.0, 2.0]


def test_what_is_collected_is_encrypted_from_the_first_sample_on(toml: Path) -> None:
    """By systemd's credential, before the daemon has ever started; without it nothing starts."""
    cable, ring = Cable(toml.parent / "sensor"), toml.parent / "samples"
    text = toml.read_text().replace('fields = ["n"]', 'fields = ["n", "what"]')
    toml.write_text(text + LABELLED)
    (toml.parent / "given").mkdir()
    (toml.parent / "given" / "storage.key").write_bytes(bytes(range(32)))
    given = {"CREDENTIALS_DIRECTORY": str(toml.parent / "given")}
    process = start(toml, **given)

    def more() -> bool:
        cable.send(b"1.5,canary*%04X\n" % crc16(b"1.5,canary"))
        return rows_collected(ring) > 0

    wait_for(more, 30)
    process.terminate()
    assert process.wait(10) == 0
    assert b"canary" not in raw(ring) + raw(toml.parent / "state")
    refused = start(toml)
    assert b"its key is not here" in refused.communicate(timeout=30)[1]
    assert refused.returncode == 78
    # Whoever only looks, as root without the services' key, is told how to; and gets it with it.
    look = [sys.executable, "-m", "edge_runtime.sources.check", "--config", str(toml)]
    look += ["--model", str(MODELS / "watch_cnn" / "watch_cnn.tflite")]
    done = subprocess.run(look, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "systemd-run --pipe --wait -p LoadCredentialEncrypted" in done.stderr
    done = subprocess.run(look, capture_output=True, text=True, check=False, env=os.environ | given)
    assert "wants the channel 'ax'" in json.loads(done.stdout)["problems"][0]


def test_what_is_not_kept_is_said_now_and_then_and_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collector_module, "LOSSES_S", 100.0)
    logs.configure("collect", "json")
    losses = collector_module.Losses()
    begun = time.monotonic()
    losses.look({"rows": 5, "dropped": 0, "bad_frames": 3}, begun)
    losses.look({"rows": 6, "dropped": 7, "bad_frames": 3}, begun + 1000)
    losses.look({"rows": 7, "dropped": 7, "bad_frames": 3}, begun + 2000)
    losses.look({"rows": 8, "dropped": 9, "bad_frames": 3})
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(it["event"], it.get("dropped"), it.get("bad_frames")) for it in said] == [
        ("not kept", 7, 3),
        ("not kept", 2, None),
    ]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    (tmp_path / "edge.toml").write_text(TOML.format(port=tmp_path / "sensor"))
    return tmp_path / "edge.toml"


def start(toml: Path, *more: str, **environment: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "edge_runtime.sources.collector", "--config", str(toml)]
    environ = os.environ | {"RUNTIME_DIRECTORY": str(toml.parent)} | environment
    return subprocess.Popen([*command, *more], env=environ, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True])
def test_the_process_survives_kills_and_stops_when_asked(toml: Path, sealed: bool) -> None:
    cable, ring = Cable(toml.parent / "sensor"), toml.parent / "samples"
    status = toml.parent / "collect.json"
    sent, flushed, key, given = 0, 0, None, {}
    if sealed:
        (toml.parent / "storage.key").write_bytes(bytes(range(32)))
        given = {"CREDENTIALS_DIRECTORY": str(toml.parent)}
    for last in (False, False, True):
        process = start(toml, **given)
        wait_for(lambda: status.exists())

        def more() -> bool:
            nonlocal sent
            for _ in range(20):
                cable.send(b"%d*%04X\n" % (sent, crc16(b"%d" % sent)))
                sent += 1
            return rows_collected(ring) > flushed  # noqa: B023 -- called at once

        wait_for(more, 30)
        if last:
            process.terminate()
            assert process.wait(10) == 0
            assert rows_collected(ring) == json.loads(status.read_text())["rows"]
        else:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        if sealed:
            key = purpose_key(toml.parent / "state", StorageSection(), given, SAMPLES)
        kept = values(ring, key)
        assert kept == sorted(set(kept))  # nothing twice
        assert len(kept) > flushed
        flushed = len(kept)
        status.unlink()


def test_mistakes_exit_with_78_or_say_what_to_do(toml: Path) -> None:
    text = toml.read_text()
    for change, says in (
        (('fields = ["n"]', 'fields = ["m"]'), b"format.fields: n isn't among them"),
        (('name = "n"', 'name = "n"\nfactor = 0.0'), b"factor not 0"),
        (("flush_s = 1", "flush_s = nan"), b"data.ring.flush_s"),
        (('kind = "serial"', 'kind = "cereal"'), b"data.kind"),
    ):
        toml.write_text(text.replace(*change))
        process = start(toml)
        assert process.communicate(timeout=30)[1].find(says) >= 0
        assert process.returncode == 78


def test_it_ends_well_where_nothing_is_to_be_collected(toml: Path) -> None:
    text = toml.read_text().replace('kind = "serial"', 'kind = "csv"')
    toml.write_text(text)
    process = start(toml)
    assert b"nothing to collect" in process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert not (toml.parent / "samples").exists()
    tried = start(toml, "--try", "1")
    assert b"lie in files already" in tried.communicate(timeout=30)[1]
    assert tried.returncode == 1


def test_nothing_heavy_is_imported() -> None:
    """It runs for years beside the daemon: no numpy, and no MQTT client for a serial line."""
    code = """
        import sys
        import edge_runtime.sources.collector, edge_runtime.sources.serial_line
        print(*sorted({"numpy", "rich", "asyncio", "aiomqtt", "pyarrow", "PIL"} & {*sys.modules}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in ("", "asyncio")

"""A sensor on a pseudo-terminal, with noise, loss and cuts: samples come through or count."""

import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edge_runtime.sources import checksums, collector
from edge_runtime.sources.drivers import make_driver
from edge_runtime.sources.framing import Lines, cobs
from edge_runtime.sources.inbox import Arrived, Inbox
from edge_runtime.sources.serial_line import SerialLine
from edge_runtime.sources.settings import (
    Channel,
    DataSection,
    FormatSection,
    LabelSection,
    RingSection,
    SerialSection,
    TimeSection,
)
from tests.source_kit import Cable, wait_for

CHANNELS = (Channel("n"), Channel("v", factor=0.5, offset=1.0))
BINARY = FormatSection("struct", fields=("n", "v"), layout="<If")
TEXT = FormatSection("csv", fields=("n", "v", "who"))


def section(tmp: Path, form: FormatSection, **line: Any) -> DataSection:
    port = SerialSection(port=str(tmp / "sensor"), **({"backoff_max_s": 0.25} | line))
    return DataSection(tmp / "ring", "serial", channels=CHANNELS, format=form, serial=port)


def in_cobs(n: int) -> bytes:
    data = struct.pack("<If", n, n / 2)
    return cobs(data + checksums.crc16(data).to_bytes(2, "little")) + b"\0"


def in_sync(n: int) -> bytes:
    data = b"\x08" + struct.pack("<If", n, n / 2)
    return b"\xaa\x55" + data + bytes([checksums.crc8(data)])


def in_line(n: int) -> bytes:
    text = f"{n},{n / 2},me".encode()
    return b"$%s*%02X\r\n" % (text, checksums.exclusive_or(text))


FRAMINGS: dict[str, Any] = {
    "cobs": (BINARY, {"framing": "cobs", "checksum": "crc16"}, in_cobs),
    "sync": (BINARY, {"framing": "sync", "checksum": "crc8", "covers": "length"}, in_sync),
    "lines": (TEXT, {"framing": "lines", "checksum": "xor"}, in_line),
}


@pytest.fixture
def cable(tmp_path: Path) -> Cable:
    return Cable(tmp_path / "sensor")


@contextmanager
def reading(settings: DataSection, limit: int = 100_000) -> Iterator[tuple[SerialLine, Inbox]]:
    driver, inbox, stop = make_driver(settings), Inbox(limit), threading.Event()
    assert isinstance(driver, SerialLine)
    thread = threading.Thread(target=driver.run, args=(inbox, stop))
    thread.start()
    try:
        yield driver, inbox
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def gather(inbox: Inbox, until: int) -> list[Arrived]:
    """All samples up to the one with number `until`."""
    found: list[Arrived] = []

    def come() -> bool:
        found.extend(inbox.take(0.05))
        return bool(found) and found[-1].record.values[0] == until

    wait_for(come)
    return found


@pytest.mark.parametrize("kind", FRAMINGS)
def test_samples_come_through_noise_and_loss(kind: str, tmp_path: Path, cable: Cable) -> None:
    form, line, frame = FRAMINGS[kind]
    chance = random.Random(kind)
    with reading(section(tmp_path, form, **line)) as (driver, inbox):
        wait_for(lambda: driver.status.ok)
        cable.send(b"\n\0" + frame(0))
        spoilt = set()
        for n in range(1, 300):
            data = bytearray(frame(n))
            match chance.random():
                case luck if luck < 0.05:  # a bit flips
                    data[chance.randrange(len(data) - 2)] ^= 1 << chance.randrange(8)
                    spoilt.add(n)
                case luck if luck < 0.1:  # a byte is lost
                    del data[chance.randrange(len(data) - 2)]
                    spoilt.add(n)
                case luck if luck < 0.15:  # garbage in between
                    data = bytearray(chance.randbytes(9)) + b"\n\0" + data
            cable.send(bytes(data))
        # What noise claims to be a long frame ends when enough has come.
        for n in range(300, 400):
            cable.send(frame(n))
        cable.send(frame(400))
        found = gather(inbox, 400)
    got = [int(arrived.record.values[0]) for arrived in found]
    assert got == sorted(set(got))
    sent = set(range(401))
    assert set(got) <= sent
    assert len(sent - set(got)) <= 3 * len(spoilt) + 10
    for arrived in found:
        n, v = arrived.record.values
        assert v == n / 2 * 0.5 + 1
    before = dict(zip(got[1:], got, strict=False))
    for arrived in found[1:]:
        n = int(arrived.record.values[0])
        assert arrived.record.broken or before[n] == n - 1  # a gap is never silent
    counts = driver.status.counts
    assert counts["bad_frames"] + counts["unreadable"] > 0
    assert counts["frames"] >= len(found)


def test_a_cable_is_cut_and_plugged_in_again(tmp_path: Path, cable: Cable) -> None:
    form, line, frame = FRAMINGS["lines"]
    with reading(section(tmp_path, form, **line)) as (driver, inbox):
        wait_for(lambda: driver.status.ok)
        cable.send(b"\n" + frame(1))
        assert [a.record.values[0] for a in gather(inbox, 1)] == [1]
        for n in (10, 20):
            cable.send(frame(n - 1)[:4])
            cable.cut()
            wait_for(lambda: not driver.status.ok)
            assert "no such port; is the cable plugged in" in driver.status.state or (
                str(tmp_path) in driver.status.state
            )
            cable.plug()
            wait_for(lambda: driver.status.ok)
            cable.send(b"\n" + frame(n))
            found = gather(inbox, n)
            assert [a.record.values[0] for a in found] == [n]
            assert found[0].record.broken
    assert driver.status.counts["opened"] >= 3


def test_a_wrong_setting_is_told_from_silence(tmp_path: Path, cable: Cable) -> None:
    form, line, _ = FRAMINGS["cobs"]
    with reading(section(tmp_path, form, **line, silent_s=0.6)) as (driver, inbox):
        wait_for(lambda: driver.status.ok)
        for n in range(300):
            cable.send(in_line(n))
        wait_for(lambda: "check baud, framing" in driver.status.state)
        wait_for(lambda: "silent for 0.6 s" in driver.status.state)
        assert inbox.take(0) == []


def test_a_port_has_one_reader(tmp_path: Path, cable: Cable) -> None:
    form, line, _ = FRAMINGS["lines"]
    with reading(section(tmp_path, form, **line)) as (first, _):
        wait_for(lambda: first.status.ok)
        with reading(section(tmp_path, form, **line)) as (second, _):
            wait_for(lambda: "in use by another" in second.status.state)
        assert first.status.ok


def test_a_full_inbox_drops_counts_and_marks(tmp_path: Path, cable: Cable) -> None:
    form, line, frame = FRAMINGS["lines"]
    with reading(section(tmp_path, form, **line), limit=5) as (driver, inbox):
        wait_for(lambda: driver.status.ok)
        cable.send(b"\n")
        for n in range(20):
            cable.send(frame(n))
        wait_for(lambda: inbox.dropped == 15)
        kept = inbox.take(0)
        assert [a.record.values[0] for a in kept] == [0, 1, 2, 3, 4]
        cable.send(frame(20))
        assert gather(inbox, 20)[0].record.broken


def test_json_lines_and_their_labels(tmp_path: Path, cable: Cable) -> None:
    settings = replace(
        section(tmp_path, FormatSection("json")),
        channels=(Channel("n", field="i.0"), Channel("v", field="deep.v")),
        label=LabelSection("field", ("what",)),
        time=TimeSection("t", "iso"),
    )
    with reading(settings) as (driver, inbox):
        wait_for(lambda: driver.status.ok)
        cable.send(
            b'\n{"i": [7], "deep": {"v": 0.5}, "what": "run", "t": "2026-01-02T03:04:05Z"}\n'
            b'{"i": [], "deep": 3}\nnull\n'
            b'{"i": [8], "deep": {"v": null}, "what": 3, "t": "2026-01-02T03:04:05.5+00:00"}\n'
        )
        first, second = (a.record for a in gather(inbox, 8))
    assert (first.values, first.label, first.time) == ((7.0, 0.5), "run", 1767323045.0)
    assert (second.label, second.time, second.broken) == ("3", 1767323045.5, True)
    assert second.values[1] != second.values[1]  # NaN: there was nothing
    assert driver.status.counts["unreadable"] == 2


def _speak(cable: Cable, data: bytes) -> None:
    time.sleep(0.5)  # what came before a port was opened is thrown away
    cable.send(data)


def test_try_out_says_what_comes_and_keeps_nothing(tmp_path: Path, cable: Cable) -> None:
    form, line, frame = FRAMINGS["lines"]
    settings = replace(section(tmp_path, form, **line), ring=RingSection(queue=16))
    sensor = threading.Thread(target=_speak, args=(cable, b"\n" + frame(3) + frame(4)))
    sensor.start()
    found = collector.try_out(settings, 2.0)
    sensor.join()
    assert found["ok"]
    assert found["last"] == {"n": 4.0, "v": 2.0}
    assert not (tmp_path / "ring").exists()


def test_the_rest_of_a_line_is_no_sample() -> None:
    """Listening begins in the middle of 123.5,…: it would be read as 23.5."""
    lines = Lines()
    assert [*lines.feed(b"23.5,1\n4,2\n")] == [None, b"4,2"]
    lines.reset()
    assert [*lines.feed(b".5,1\n4,2\n")] == [None, b"4,2"]
    assert lines.counts.bad == 0

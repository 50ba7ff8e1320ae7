"""What comes over a line and what lies on a disk may be anything; samples come out, or nothing."""

import os
import struct
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.sources import checksums
from edge_runtime.sources.clocks import Arrival, Sender
from edge_runtime.sources.decoding import decoder
from edge_runtime.sources.framing import FRAME_MAX, Cobs, Deframer, Lines, Synced, cobs, uncobs
from edge_runtime.sources.labels import read_intervals
from edge_runtime.sources.quality import Verdict
from edge_runtime.sources.record import Chooser
from edge_runtime.sources.ring import Ring, rows_collected
from edge_runtime.sources.segment import Head, Rows, parse_inside, scan
from edge_runtime.sources.settings import (
    Channel,
    DataSection,
    FormatSection,
    HoldoutSection,
    LabelSection,
    SerialSection,
    TimeSection,
)
from edge_runtime.sources.split import sides
from edge_runtime.sources.tracks import Track
from edge_runtime.sources.windows import Cut, breaks, starts
from qflare.faults import LocalFault, PeerFault

LINE = SerialSection(sync="aa55", length_bytes=1, checksum="crc16", framing="sync")
HEAD = Head("qflare-samples/1", ("a", "b"), ("1", "1"), 0.0, 0, False)


def synced(payload: bytes) -> bytes:
    crc = checksums.crc16(payload).to_bytes(2, "little")
    return b"\xaa\x55" + bytes([len(payload)]) + payload + crc


def cobsed(payload: bytes) -> bytes:
    return cobs(payload + checksums.crc16(payload).to_bytes(2, "little")) + b"\0"


def lined(payload: bytes) -> bytes:
    return b"$%s*%04x\r\n" % (payload, checksums.crc16(payload))


def made(kind: str) -> Deframer:
    match kind:
        case "sync":
            return Synced(LINE)
        case "cobs":
            return Cobs("crc16")
    return Lines("crc16")


WRAP = {"sync": synced, "cobs": cobsed, "lines": lined}
END = {"sync": b"", "cobs": b"\0", "lines": b"\n"}
kinds = st.sampled_from(sorted(WRAP))
payloads = st.lists(st.binary(min_size=1, max_size=60), max_size=8)


def clean(kind: str, payload: bytes) -> bytes:
    """A payload that the framing can carry as it is."""
    if kind == "lines":
        return b"x" + payload.hex().encode()
    return payload if payload.strip(b"\r\n\0") else b"x" + payload


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(kinds, payloads, st.lists(st.integers(0, 10_000), max_size=12))
def test_frames_come_out_however_the_stream_was_cut(
    kind: str, sent: list[bytes], cuts: list[int]
) -> None:
    sent = [clean(kind, payload) for payload in sent]
    stream = END[kind] + b"".join(map(WRAP[kind], sent))
    deframer = made(kind)
    got = [f for piece in pieces(stream, cuts) for f in deframer.feed(piece) if f is not None]
    assert got == sent
    assert deframer.counts.frames == len(sent)
    assert deframer.counts.bytes == len(stream)


@given(kinds, st.binary(max_size=3000), st.binary(min_size=1, max_size=60))
def test_noise_gives_nothing_and_a_frame_after_it_is_found(
    kind: str, noise: bytes, payload: bytes
) -> None:
    """After noise that looks like a frame's beginning, at most what that claims is waited for."""
    deframer, payload = made(kind), clean(kind, payload)
    got = list(deframer.feed(noise))
    frame = WRAP[kind](payload)
    later = [f for _ in range(FRAME_MAX // len(frame) + 3) for f in deframer.feed(frame)]
    assert payload in later
    assert len([f for f in got if f is not None]) <= len(noise) // 4


@given(kinds, st.binary(min_size=3, max_size=60), st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_never_passes(kind: str, payload: bytes, at: int, flip: int) -> None:
    payload = clean(kind, payload)
    frame = bytearray(WRAP[kind](payload))
    frame[at % len(frame)] ^= flip
    deframer = made(kind)
    list(deframer.feed(END[kind]))
    for got in deframer.feed(bytes(frame) + WRAP[kind](b"x11" if kind == "lines" else b"end")):
        assert got in (None, payload, b"x11", b"end")


@given(st.binary(max_size=1200))
def test_cobs_is_its_own_inverse(packet: bytes) -> None:
    stuffed = cobs(packet)
    assert 0 not in stuffed
    assert uncobs(stuffed) == packet


@given(st.binary(max_size=400))
def test_any_cobs_is_unstuffed_or_refused(raw: bytes) -> None:
    packet = uncobs(raw)
    assert packet is None or len(packet) <= len(raw)


def test_checksums_have_their_check_values() -> None:
    digits = b"123456789"
    assert checksums.crc8(digits) == 0xF4
    assert checksums.crc16(digits) == 0x29B1
    assert checksums.crc16(digits, 0) == 0x31C3
    assert checksums.exclusive_or(b"GPGLL,5300.97914,N,00259.98174,E,125926,A") == 0x28


FORMATS = [
    FormatSection("csv", ",", ("t", "a", "b", "l")),
    FormatSection("json"),
    FormatSection("struct", fields=("t", "a", "b", "l"), layout="<Ihfb"),
]


def data(form: FormatSection) -> DataSection:
    return DataSection(
        Path("ring"),
        "serial",
        channels=(Channel("a"), Channel("b", factor=2.0, offset=1.0)),
        format=form,
        time=TimeSection("t"),
        label=LabelSection("field", ("l",)),
        serial=SerialSection(port="/dev/x", framing="cobs"),
    )


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.encoding)
@given(message=st.binary(max_size=200))
def test_any_message_is_a_sample_or_a_fault(form: FormatSection, message: bytes) -> None:
    both = decoder(data(form)), Chooser(data(form))
    try:
        record = both[1].record(both[0].decode(message))
    except PeerFault:
        return
    assert len(record.values) == 2
    assert all(isinstance(value, float) for value in record.values)


@given(st.dictionaries(st.sampled_from(["t", "a", "b", "l", "x"]), json_like))
def test_any_fields_are_a_sample_or_a_fault(fields: dict[str, object]) -> None:
    try:
        record = Chooser(data(FORMATS[1])).record(fields)
    except PeerFault:
        return
    assert len(record.values) == 2
    assert isinstance(record.label, str)


rows = st.lists(
    st.tuples(
        st.integers(-(2**60), 2**60),
        st.sampled_from(["", "walk", "run", "é" * 50]),
        st.booleans(),
        st.tuples(st.floats(width=32), st.floats(width=32)),
    ),
    min_size=1,
    max_size=20,
)


def batch(some: list[tuple[int, str, bool, tuple[float, float]]]) -> Rows:
    found = Rows()
    for row in some:
        found.add(*row)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5), st.booleans(), st.data())
def test_a_ring_cut_anywhere_keeps_whole_flushes_and_goes_on(
    batches: list[list[tuple[int, str, bool, tuple[float, float]]]],
    sealed: bool,
    pick: st.DataObject,
) -> None:
    """After a power cut the tail is torn, or garbage; what was flushed before it is all there."""
    from edge_runtime.sources.sealed import Sealer

    cipher = Sealer(bytes(32)) if sealed else None
    with TemporaryDirectory() as name:
        folder = Path(name) / "ring"
        ring = Ring(folder, HEAD, 2**20, cipher)
        ends = []
        for some in batches:
            ring.append(batch(some))
            ends.append((folder / "00000001.seg").stat().st_size)
        ring.close()
        path = folder / "00000001.seg"
        whole = path.read_bytes()
        keep = pick.draw(st.integers(0, len(whole)))
        tail = pick.draw(st.binary(max_size=50))
        path.write_bytes(whole[:keep] + tail)
        whole_flushes = sum(end <= keep for end in ends)
        again = Ring(folder, HEAD, 2**20, cipher)
        expected = [row for some in batches[:whole_flushes] for row in some]
        if whole[:keep] + tail != whole:
            assert again.rows == len(expected) == rows_collected(folder)
        again.append(batch(batches[0]))
        expected = (
            expected if whole[:keep] + tail != whole else [row for some in batches for row in some]
        )
        track = Track(sorted(folder.glob("*.seg"))[-1], again._number, cipher)
        again.close()
        assert track.columns.time.tolist() == [r[0] for r in (*expected, *batches[0])]
        values = track.values(0, len(track))
        np.testing.assert_array_equal(values, np.array([r[3] for r in (*expected, *batches[0])]))
        names = ["", *track.columns.labels]
        assert [names[m] for m in track.columns.mark] == [r[1] for r in (*expected, *batches[0])]
        assert track.columns.broken.tolist() == [r[2] for r in (*expected, *batches[0])]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2000), st.binary(min_size=1, max_size=8))
def test_any_file_is_scanned_or_refused(garbage: bytes, at: int, patch: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name) / "ring"
        ring = Ring(folder, HEAD, 2**20)
        for i in range(4):
            ring.append(batch([(i, "walk", False, (1.0, 2.0))] * 3))
        ring.close()
        path = folder / "00000001.seg"
        good = bytearray(path.read_bytes())
        at %= len(good)
        good[at : at + len(patch)] = patch
        for content in (garbage, bytes(good)):
            path.write_bytes(content)
            file = os.open(path, os.O_RDONLY)
            try:
                found = scan(file)
                assert found.rows in (3, 6, 9, 12)
                assert len(Track(path, 1)) == found.rows
            except PeerFault:
                with pytest.raises(LocalFault):
                    Track(path, 1)
            finally:
                os.close(file)


@given(st.binary(max_size=200), st.integers(0, 40), st.integers(0, 5))
def test_any_inside_of_a_block_is_parsed_or_refused(data: bytes, count: int, width: int) -> None:
    try:
        inside = parse_inside(data, count, width)
    except PeerFault:
        return
    assert inside.values + 4 * count * width == len(data)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2))
def test_any_label_file_is_read_or_refused(content: bytes, width: int) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "labels.csv"
        path.write_bytes(content)
        try:
            found = read_intervals(path, {}, width)
        except LocalFault:
            return
        assert len(found.labels) == len(found.starts) == len(found.numbers)
        assert (found.starts <= found.ends).all()


@given(st.lists(st.integers(0, 10**13), max_size=40), st.integers(1, 10**8), st.floats(0, 0.9))
def test_no_sample_is_on_both_sides(begin: list[int], length: int, share: float) -> None:
    first = np.array(begin, np.int64)
    last = first + length
    holdout = HoldoutSection(share, 30.0)
    side = sides(first, last, holdout, True, "x")
    for some in (0, 1):
        for i in np.flatnonzero(side == some).tolist():
            for j in np.flatnonzero(side == 1 - some).tolist():
                assert last[i] < first[j] or last[j] < first[i]
    # Whatever else is there, and wherever it is kept, a window stays on its side.
    alone = [
        sides(first[i : i + 1], last[i : i + 1], holdout, True, "y") for i in range(len(first))
    ]
    assert side.tolist() == [int(one[0]) for one in alone]


@given(
    st.lists(st.integers(-5, 200), min_size=1, max_size=80),
    st.lists(st.booleans(), min_size=80, max_size=80),
    st.integers(1, 9),
    st.integers(1, 12),
    st.integers(1, 3),
)
def test_windows_never_cross_a_gap_and_rows_to_come_change_none(
    between: list[int], broken: list[bool], length: int, stride: int, every: int
) -> None:
    time = np.cumsum(between).astype(np.int64)
    mark, label = np.array(broken[: len(time)]), np.zeros(len(time), np.int32)
    cut = Cut(length, stride, every, 50, 0.0)
    begins = breaks(time, mark, label, cut)
    found = starts(begins, len(time), cut)
    for start in found.tolist():
        inside = slice(start + 1, start + cut.reach)
        assert not mark[inside].any()
        gaps = np.diff(time[start : start + cut.reach])
        assert ((gaps > 0) & (gaps <= 50)).all()
    half = len(time) // 2
    early = starts(breaks(time[:half], mark[:half], label[:half], cut), half, cut)
    assert early.tolist() == [s for s in found.tolist() if s + cut.reach <= half]


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(-(10.0**9), 10.0**9)), max_size=50))
def test_times_of_arrival_go_on_or_are_marked(steps: list[tuple[float, float]]) -> None:
    mono, before = 0.0, None
    clock = Arrival(50.0)
    for step, jump in steps:
        mono += step
        moment = clock.at(None, mono, mono + 1e9 + (jump if abs(jump) > 5 else 0))
        assert moment.broken or before is None or moment.us > before
        before = moment.us


@given(st.lists(st.floats(allow_nan=True), max_size=50), st.sampled_from([0, 16, 32]))
def test_times_of_a_sender_go_on_or_are_marked(said: list[float], bits: int) -> None:
    clock, before = Sender("ms", bits), None
    for i, value in enumerate(said):
        moment = clock.at(value, float(i), 1e9 + i)
        assert moment.broken or before is None or moment.us >= before
        before = moment.us


def test_a_counter_that_comes_round_goes_on() -> None:
    clock = Sender("ms", 16)
    found = [clock.at(float(v % 65536), v / 1e3, 1e9 + v / 1e3) for v in range(60_000, 140_000, 10)]
    assert not any(moment.broken for moment in found)
    assert {b.us - a.us for a, b in pairwise(found)} == {10_000}
    again = clock.at(5.0, 200.0, 1e9 + 200)  # it began anew, far from its end
    assert again.broken


def test_every_verdict_has_a_word() -> None:
    assert struct.calcsize("<I") == 4
    assert {v.word for v in Verdict} >= {"fit", "stuck", "not_finite", "missing", "drifted"}

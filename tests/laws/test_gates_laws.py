"""Laws of the gates: no flapping, no silence, and nothing that a sensor says breaks anything."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.gates import bus, windows
from edge_runtime.gates.judging import Standing, judge
from edge_runtime.gates.readings import (
    Disk,
    Gate,
    Heat,
    Load,
    Memory,
    Network,
    Power,
    Readings,
    Seen,
    Throttling,
    Time,
)
from edge_runtime.gates.settings import DAYS, GatesSection, NetworkGate, SamplesGate, Window
from tests.gate_rig import BOARD, Rig

ALL = GatesSection(
    windows=(Window("22:00", "06:00"),),
    samples=SamplesGate(10),
    network=NetworkGate(),
)
REST, SETTLE = ALL.rest_seconds, ALL.settle_seconds
numbers = st.floats(-1e12, 1e12)
words = st.text(max_size=20)


def seen(values: st.SearchStrategy[object]) -> st.SearchStrategy[Seen[object]]:
    return st.builds(Seen, st.none() | values, st.none() | words)


readings = st.builds(
    Readings,
    hold=seen(words),
    power=seen(st.builds(Power, st.booleans(), st.none() | st.floats(0, 100))),
    temperature=seen(st.builds(Heat, st.floats(-40, 150), words)),
    throttling=seen(st.builds(Throttling, st.lists(words, max_size=2).map(tuple))),
    load=seen(st.builds(Load, *[st.none() | st.floats(0, 200)] * 4)),
    memory=seen(st.builds(Memory, st.integers(0, 2**40))),
    disk=seen(
        st.builds(Disk, st.integers(0, 2**50), st.none() | st.integers(0, 10**6), st.booleans())
    ),
    network=seen(st.builds(Network, words, st.none() | words, st.none() | numbers)),
    windows=seen(st.builds(Time, numbers, st.just(UTC), st.none() | st.booleans())),
    samples=seen(st.integers(0, 100)),
)


@given(st.lists(st.tuples(readings, st.floats(0, 400)), max_size=12))
def test_closed_if_and_only_if_a_reason_is_given(looks: list[tuple[Readings, float]]) -> None:
    past, now = {}, 0.0
    for reading, after in looks:
        now += after
        verdict = judge(reading, ALL, past, now)
        past = dict(verdict.state)
        assert [line.gate for line in verdict.lines] == list(Gate)
        assert verdict.open == (verdict.why == "") == (not verdict.reasons)
        for line in verdict.lines:
            assert line.says
            if line.standing in (Standing.OPEN, Standing.CLOSED):
                assert past[line.gate].open == (line.standing is Standing.OPEN)
            else:
                assert line.gate not in past


@given(st.lists(st.tuples(readings, st.floats(0, 100)), max_size=20))
def test_a_closed_gate_rests_whatever_comes(looks: list[tuple[Readings, float]]) -> None:
    """So a gate opens at most once in `rest_seconds`, however its sensor behaves."""
    past, now = {}, 0.0
    closed: dict[Gate, float] = {}
    for reading, after in looks:
        now += after
        verdict = judge(reading, ALL, past, now)
        past = dict(verdict.state)
        shut = {line.gate for line in verdict.reasons}
        for gate in set(closed) - shut:
            assert now - closed.pop(gate) >= REST
        for gate in shut:
            closed.setdefault(gate, now)


def _power(value: float) -> Readings:
    return Readings(power=Seen(Power(True, value)))


def _heat(value: float) -> Readings:
    return Readings(temperature=Seen(Heat(value, "cpu")))


def _cpu(value: float) -> Readings:
    return Readings(load=Seen(Load(cpu=value)))


def _memory(value: float) -> Readings:
    return Readings(memory=Seen(Memory(int(value * 2**20))))


BANDS = pytest.mark.parametrize(
    ("reading", "low", "high", "good", "bad"),
    [
        (_power, 20.0, 29.94, 90.0, 1.0),
        (_heat, 65.06, 75.0, 30.0, 90.0),
        (_cpu, 50.06, 75.0, 0.0, 100.0),
        (_memory, 48.0, 95.94, 1000.0, 1.0),
    ],
)


@BANDS
@given(st.data())
def test_noise_within_the_band_moves_nothing(
    reading: Callable[[float], Readings],
    low: float,
    high: float,
    good: float,
    bad: float,
    data: st.DataObject,
) -> None:
    start = data.draw(st.sampled_from((good, bad)))
    first = judge(reading(start), ALL, {}, 0.0)
    assert first.open == (start == good)
    past, now = dict(first.state), 0.0
    for value in data.draw(st.lists(st.floats(low, high), max_size=30)):
        now += 15
        verdict = judge(reading(value), ALL, past, now)
        past = dict(verdict.state)
        assert verdict.open == first.open


@BANDS
def test_beyond_the_band_it_does_move(
    reading: Callable[[float], Readings], low: float, high: float, good: float, bad: float
) -> None:
    verdict = judge(reading(good), ALL, {}, 0.0)
    assert verdict.open
    verdict = judge(reading(bad), ALL, verdict.state, SETTLE)
    assert not verdict.open
    verdict = judge(reading(good), ALL, verdict.state, SETTLE + REST)
    assert verdict.open


garbage = st.binary(max_size=60) | st.sampled_from(
    [b"", b"\n", b"-1", b"99999999999999999999", b"nan", b"0x10", b"1 2 3", b"\0", b"\xff\xfe"]
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *BOARD,
                "sys/class/power_supply/BAT0/present",
                "sys/class/power_supply/BAT0/scope",
                "sys/class/power_supply/BAT0/energy_now",
                "sys/devices/platform/soc/soc:firmware/get_throttled",
                "sys/class/rtc/rtc0/hctosys",
                "proc/pressure/memory",
                "proc/pressure/io",
                "proc/self/net/ipv6_route",
                "proc/77/stat",
                "etc/localtime",
                "run/qflare/hold",
            ]
        ),
        garbage,
        max_size=8,
    ),
    st.floats(-1e18, 1e18),
)
def test_no_garbage_in_any_file_raises(files: dict[str, bytes], wall: float) -> None:
    with TemporaryDirectory() as directory:
        root = Path(directory)
        rig = Rig(root, GatesSection(windows=(Window("22:00", "06:00"),)))
        rig.look()
        for name, data in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        rig.wall = wall
        for after in (15.0, 400.0):
            look = rig.look(after, children=(77,), new_samples=1, kbit=1.0)
            for line in look.verdict.lines:
                assert (line.says + (line.trouble or "")).isprintable()


@pytest.mark.parametrize("kind", ["directory", "pipe", "dangling", "loop"])
def test_nothing_in_the_place_of_a_file_raises_or_waits(tmp_path: Path, kind: str) -> None:
    import os

    rig = Rig(tmp_path, ALL)
    rig.look()
    for name in [*BOARD, "run/qflare/hold", "etc/localtime", "sys/class/rtc/rtc0/hctosys"]:
        path = tmp_path / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        match kind:
            case "directory":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "dangling":
                path.symlink_to("nowhere")
            case "loop":
                path.symlink_to(path.name)
    for after in (15.0, 400.0):
        rig.look(after, children=(77,))


ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",  # half an hour
    "Antarctica/Troll",  # two hours
    "America/Santiago",  # at midnight
    "Africa/Cairo",  # at midnight
    "Asia/Kathmandu",
    "UTC",
)
clocks = st.builds(
    lambda h, m: f"{h:02}:{m:02}", st.integers(0, 23), st.sampled_from((0, 15, 30, 45))
)
days = st.lists(st.sampled_from(DAYS), min_size=1, unique=True).map(tuple)
a_window = st.builds(Window, clocks, clocks | st.just("24:00"), days)
# 2026-03-01 to 2027-04-01: every zone's changes, both ways.
moments = st.integers(1_772_323_200, 1_806_537_600)


def _changes(zone: ZoneInfo, year: int = 2026) -> list[date]:
    """Days on which the clock is moved."""
    found = []
    day = datetime(year, 1, 1, tzinfo=UTC)
    while day.year == year:
        after = day + timedelta(days=1)
        if day.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
            found += [day.date(), after.date()]
        day = after
    return found


@given(st.sampled_from(ZONES), st.lists(a_window, min_size=1, max_size=3), moments)
def test_away_from_changes_a_window_is_what_the_clock_on_the_wall_says(
    name: str, wanted: list[Window], now: int
) -> None:
    zone = ZoneInfo(name)
    offsets = {
        datetime.fromtimestamp(now + hours * 3600, zone).utcoffset() for hours in range(-72, 73)
    }
    if len(offsets) > 1:
        return
    shown = datetime.fromtimestamp(now, zone)
    clock = f"{shown:%H:%M}"
    today, yesterday = DAYS[shown.weekday()], DAYS[shown.weekday() - 1]
    expected = any(
        (w.start <= clock < w.end and today in w.days)
        if w.start < w.end
        else (clock >= w.start and today in w.days) or (clock < w.end and yesterday in w.days)
        for w in wanted
    )
    assert windows.until(wanted, zone, now)[0] == expected


@given(st.data())
def test_on_days_of_change_a_window_opens_once_and_for_as_long_as_it_can(
    data: st.DataObject,
) -> None:
    zone = ZoneInfo(data.draw(st.sampled_from(ZONES)))
    day = data.draw(st.sampled_from(_changes(zone) or [date(2026, 7, 1)]))
    window = Window(data.draw(clocks), data.draw(clocks))
    start, stop = windows.span(window, day, zone)
    hours = [int(c[:2]) + int(c[3:]) / 60 for c in (window.start, window.end)]
    nominal = (hours[1] - hours[0]) % 24 or 24
    assert stop - start >= 0
    assert abs((stop - start) / 3600 - nominal) <= 2
    next_start, _ = windows.span(window, day + timedelta(days=1), zone)
    assert stop <= next_start
    for moment, clock in ((start, window.start), (stop, window.end)):
        just_before = datetime.fromtimestamp(moment - 1, zone).replace(tzinfo=None)
        at = datetime.fromtimestamp(moment, zone).replace(tzinfo=None)
        assert f"{at:%H:%M}" == clock or just_before + timedelta(seconds=1) < at  # or skipped


@given(st.sampled_from(ZONES), st.lists(a_window, min_size=1, max_size=3), moments)
def test_the_next_change_is_a_change(name: str, wanted: list[Window], now: int) -> None:
    zone = ZoneInfo(name)
    inside, change = windows.until(wanted, zone, now)
    if change is None:
        return
    assert change > now
    assert windows.until(wanted, zone, change)[0] != inside
    assert windows.until(wanted, zone, change - 1)[0] == inside
    middle = (now + change) // 2
    assert windows.until(wanted, zone, middle)[0] == inside


@given(st.binary(max_size=200))
def test_a_garbled_message_is_a_value_error_and_nothing_else(data: bytes) -> None:
    head = b"l\x02\x00\x01" + data[:12]
    for message in (data, head + data[12:], bus.call(1, "a.b", "/a", "a.b", "C")[:16] + data):
        if len(message) < 16:
            continue
        try:
            bus.size(message[:16])
            bus.metered(bus.parse(message))
        except ValueError:
            pass


@given(st.lists(st.text(max_size=20).filter(lambda t: "\0" not in t), max_size=3))
def test_a_message_of_ours_parses(texts: list[str]) -> None:
    message = bus.call(7, "a.b", "/a", "a.b", "Member", tuple(texts))
    assert bus.size(message[:16]) == len(message)
    found = bus.parse(message)
    assert (found.kind, found.signature, found.reply_to) == (1, "s" * len(texts), None)

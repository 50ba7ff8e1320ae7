"""A device says how it is: seldom, signed, bounded; and the coordinator keeps the newest word."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.export import _all_reports, _device
from edge_runtime import events as ev
from edge_runtime.gates.judging import Line, Standing, Verdict
from edge_runtime.gates.readings import Gate, Heat, Power, Readings, Seen
from edge_runtime.observing import observe
from edge_runtime.reporting import EVERY_S, SOON_S
from qflare.crypto.keys import SigningKey
from qflare.effects import Publish, Received
from qflare.envelope import open_signed, sign
from qflare.faults import PeerFault, Reason
from qflare.names import DeviceId, FleetId
from qflare.report import WORDS_MAX, DeviceReport, GateSays, Health
from qflare.topics import Up, UpTopic, build
from tests.edge_lab import DEVICE as LAB_DEVICE
from tests.edge_lab import FLEET as LAB_FLEET
from tests.edge_pilot import Pilot
from tests.gate_rig import put
from tests.unit.coordinator_rig import FLEET, Rig, World

WELL = Health("0.1.0", "rpi4", gates=(GateSays("hold", "open", "nobody holds training"),))
HELD = replace(WELL, gates=(GateSays("hold", "closed", "held by a person"),))


def reports(pilot: Pilot) -> list[DeviceReport]:
    key = pilot.lab.key.verify_key
    return [open_signed(DeviceReport, said, key) for said in pilot.said(Up.REPORT)]


def test_a_change_is_said_soon_and_nothing_new_seldom() -> None:
    pilot = Pilot()
    pilot.feed(ev.Looked(WELL))
    pilot.connect()
    (first,) = reports(pilot)
    assert (first.fleet, first.device, first.number) == (LAB_FLEET, LAB_DEVICE, 1)
    assert first.health == WELL
    pilot.tick(SOON_S - 1)
    pilot.feed(ev.Looked(HELD))
    assert len(reports(pilot)) == 1  # not yet
    pilot.tick(2)
    assert reports(pilot)[-1].health == HELD
    pilot.feed(ev.Looked(replace(HELD, figures=(("celsius", 51),))))  # readings waver
    pilot.tick(SOON_S + 1)
    assert len(reports(pilot)) == 2
    pilot.tick(EVERY_S)
    assert [report.number for report in reports(pilot)] == [1, 2, 3]


def test_offline_nothing_is_said_and_then_the_newest() -> None:
    pilot = Pilot()
    pilot.connect()
    pilot.feed(ev.LinkDown())
    pilot.feed(ev.Looked(WELL))
    pilot.feed(ev.Looked(HELD))
    assert not reports(pilot)
    pilot.connect()
    assert [report.health for report in reports(pilot)] == [HELD]


def test_the_last_error_is_told_with_its_age() -> None:
    pilot = Pilot()
    pilot.connect()
    pilot.machine._state.note("error", "training failed", reason="the memory ran out")
    pilot.now += 100
    pilot.feed(ev.Looked(WELL))
    (report,) = reports(pilot)
    assert report.health.error == "training failed: the memory ran out"
    assert dict(report.health.figures)["error_age_s"] == 100


@given(st.lists(st.tuples(st.floats(1, 2000), st.booleans()), max_size=60))
def test_whatever_happens_it_costs_little(changes: list[tuple[float, bool]]) -> None:
    """At most 0.4 kB a minute over any long time, whose share of 2 kB is small."""
    pilot = Pilot()
    pilot.connect()
    begun = pilot.now
    for after, held in changes:
        pilot.feed(ev.Looked(HELD if held else WELL))
        pilot.tick(after)
    said = [e for e in pilot.done if isinstance(e, Publish) and e.topic.endswith("/report")]
    spent = sum(len(e.payload) for e in said[1:])
    assert spent <= (pilot.now - begun) / 60 * 400


def test_a_full_report_has_few_kilobytes() -> None:
    says = "x" * 80
    gates = tuple(GateSays(str(gate), "closed", says) for gate in Gate)
    figures = tuple(sorted((f"figure_{i}_percent", i) for i in range(16)))
    health = Health("0.1.0", "rpi4", "MAXN", says, says, gates, (says, says), figures)
    report = DeviceReport(LAB_FLEET, LAB_DEVICE, 2, 1, health)
    assert len(sign(report, Pilot().lab.key)) < 6000


@pytest.mark.parametrize(
    "changes",
    [
        {"error": "x" * (WORDS_MAX + 1)},
        {"figures": (("b", 1), ("a", 1))},
        {"figures": (("a", 1), ("a", 2))},
        {"figures": (("a", 2**53),)},
        {"notices": ("x",) * 5},
        {"gates": (GateSays("hold", "open", ""),) * 17},
    ],
)
def test_what_is_too_much_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(PeerFault):
        replace(WELL, **changes)  # type: ignore[arg-type]


def test_what_is_seen_is_told(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "proc/self/io": "rchar: 5\nwrite_bytes: 81920\ncancelled_write_bytes: 0\n",
            "proc/meminfo": "MemTotal: 500000 kB\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu io pids\n",
            "sys/firmware/devicetree/base/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
        },
    )
    (tmp_path / "state").mkdir()
    verdict = Verdict((Line(Gate.HOLD, Standing.CLOSED, "held\nby \x1b[31ma person"),), {})
    readings = Readings(temperature=Seen(Heat(51.4, "cpu")), power=Seen(Power(True, 80.0)))
    found = observe(
        verdict,
        readings,
        tmp_path / "state",
        192,
        {"INVOCATION_ID": "1"},
        tmp_path / "opt",
        tmp_path,
    )
    assert found.board == "rpi4"
    assert "\x1b" not in found.gates[0].says
    figures = dict(found.figures)
    assert (figures["celsius"], figures["battery_percent"]) == (51, 80)
    assert (figures["written_kb"], figures["training_limit_mb"]) == (81, 192)
    assert figures["disk_free_mb"] > 0
    assert any("cgroup_enable=memory" in notice for notice in found.notices)
    nowhere = observe(verdict, Readings(), tmp_path / "none", 1, {}, tmp_path, tmp_path)
    assert any("No such file" in notice for notice in nowhere.notices)


_WORLD = World()
DEV = DeviceId.parse("dev-0")


def kept(rig: Rig) -> dict[str, dict[str, Any]]:
    assert rig.store is not None
    with rig.store._engine.begin() as connection:
        return {row.device: _device(row) for row in connection.execute(_all_reports)}


def test_the_coordinator_keeps_the_newest_word(tmp_path: Path) -> None:
    rig = Rig(_WORLD, tmp_path)
    rig.run(lambda: len(rig.machine.book.registry.online()) == 3)
    key, _ = _WORLD.identity("dev-0")
    other, _ = _WORLD.identity("dev-1")

    def say(report: DeviceReport, by: SigningKey = key) -> None:
        payload = sign(report, by)
        rig.events.append(Received(build(UpTopic(FLEET, DEV, Up.REPORT)), payload))
        while rig.events:
            rig.step()

    report = DeviceReport(FLEET, DEV, 5, 2, HELD)
    say(report)
    assert kept(rig)["dev-0"]["gates"] == [
        {"gate": "hold", "standing": "closed", "says": "held by a person"}
    ]
    for older in ((5, 1), (5, 2), (4, 9)):
        say(DeviceReport(FLEET, DEV, *older, WELL))
        assert kept(rig)["dev-0"]["gates"][0]["standing"] == "closed"
    say(DeviceReport(FLEET, DEV, 6, 1, WELL))
    assert kept(rig)["dev-0"]["gates"][0]["standing"] == "open"
    refusals = rig.machine.book.refusals
    say(DeviceReport(FLEET, DEV, 9, 1, HELD), other)
    assert refusals[Reason.BAD_SIGNATURE] == 1
    say(DeviceReport(FleetId.parse("elsewhere"), DEV, 9, 1, HELD))
    assert refusals[Reason.WRONG_FLEET] == 1
    say(DeviceReport(FLEET, DeviceId.parse("dev-1"), 9, 1, HELD))
    assert refusals[Reason.UNKNOWN_DEVICE] == 1
    for number in range(2, 12):
        say(DeviceReport(FLEET, DEV, 9, number, HELD))
    assert refusals[Reason.RATE_LIMITED] > 0

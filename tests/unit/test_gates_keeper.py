"""What a technician sees of the gates: over a tree that stands for a board, with its clock."""

import json
import math
import sys
import tomllib
from pathlib import Path
from subprocess import run

import pytest

from edge_runtime.gates.keeper import describe
from edge_runtime.gates.readings import Gate
from edge_runtime.gates.settings import (
    Ceiling,
    GatesSection,
    NetworkGate,
    PowerGate,
    SamplesGate,
    Window,
)
from qflare.host.config import ConfigFault, load
from qflare.host.typed import parse
from tests.gate_rig import TICKS, Rig

BATTERY = "sys/class/power_supply/BAT0/capacity"
HEAT = "sys/class/thermal/thermal_zone0/temp"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_healthy_board_trains(rig: Rig) -> None:
    look = rig.look()
    assert look.verdict.open
    assert look.verdict.why == ""
    assert rig.says(Gate.POWER) == "battery at 80 %"
    assert rig.says(Gate.TEMPERATURE) == "cpu-thermal at 48.3 °C"
    assert rig.says(Gate.THROTTLING) == "not throttled"
    assert rig.says(Gate.NETWORK) == "network by eth0"


def test_a_battery_closes_at_one_level_and_opens_at_another(rig: Rig) -> None:
    rig.look()
    rig.put(BATTERY, "25\n")
    assert rig.look().verdict.open
    rig.put(BATTERY, "12\n")
    look = rig.look()
    assert look.verdict.why == "battery at 12 %, wants 30 % or mains power"
    assert [(c.gate, c.event) for c in look.changes] == [(Gate.POWER, "gate closed")]
    rig.put(BATTERY, "29\n")
    assert not rig.look(after=1000).verdict.open
    rig.put(BATTERY, "30\n")
    look = rig.look()
    assert look.verdict.open
    assert [(c.gate, c.event, c.says) for c in look.changes] == [
        (Gate.POWER, "gate opened", "battery at 30 %")
    ]


def test_a_closed_gate_rests_and_says_how_long(rig: Rig) -> None:
    rig.look()
    rig.put(HEAT, "75100\n")
    assert rig.look().verdict.why == "cpu-thermal at 75.1 °C, wants 65 °C or less"
    rig.put(HEAT, "50000\n")
    assert rig.look(after=30).verdict.why == "cpu-thermal at 50 °C, waits 90 s more to be sure"
    assert not rig.look(after=89).verdict.open
    assert rig.look(after=1).verdict.open


def test_without_a_past_a_gate_opens_only_for_a_good_reading(rig: Rig) -> None:
    rig.put(BATTERY, "25\n")
    assert rig.look().verdict.why == "battery at 25 %, wants 30 % or mains power"


def test_the_boards_limits_and_the_owners(tmp_path: Path) -> None:
    rig = Rig(tmp_path, hot=Ceiling(45, 40))
    assert "wants 40 °C" in rig.look().verdict.why
    toml = tmp_path / "edge.toml"
    toml.write_text("[temperature]\ncelsius = { closes = 60, opens = 55 }\n")
    settings = load(GatesSection, "gates", toml, {}).value
    assert Rig(tmp_path, settings, hot=Ceiling(45, 40)).look().verdict.open


def test_a_battery_may_be_forbidden(tmp_path: Path) -> None:
    rig = Rig(tmp_path, GatesSection(power=PowerGate(mains_only=True)))
    assert rig.look().verdict.why == "battery at 80 %, which drains, wants mains power"
    rig.put("sys/class/power_supply/BAT0/status", "Charging\n")
    assert rig.look(after=200).verdict.open
    assert rig.says(Gate.POWER) == "on mains, battery at 80 %"


def test_our_own_training_is_no_load(rig: Rig) -> None:
    rig.look()
    rig.spend(busy=30 * TICKS, idle=0, ours=29 * TICKS)
    assert rig.look().verdict.open
    assert rig.says(Gate.LOAD) == "other programs take 3.3 % of the processor"


def test_a_load_closes_only_when_it_has_been_low_for_a_while(rig: Rig) -> None:
    rig.look()
    rig.look()
    rig.spend(busy=28 * TICKS, idle=2 * TICKS)
    assert rig.look().verdict.open
    rig.spend(busy=56 * TICKS, idle=4 * TICKS)
    why = rig.look(after=30).verdict.why
    assert why == "other programs take 93.3 % of the processor, wants 50 % or less"


def test_a_queue_stands_in_for_stalls(rig: Rig) -> None:
    rig.put("proc/loadavg", "5.00 1.00 1.00 9/100 1000\n")
    why = rig.look().verdict.why
    assert why == "2.5 other programs wait on each core, wants 1 or less"
    rig.put("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    rig.put("proc/pressure/io", "some avg10=90.00 avg60=30.00 avg300=0.00 total=0\n")
    why = rig.look(after=300).verdict.why
    assert why == "programs wait for storage 30 % of the time, wants 20 % or less"


def test_our_own_threads_are_not_in_the_queue(rig: Rig) -> None:
    began = rig.now
    for _ in range(40):
        look = rig.look()
        rig.spend(busy=30 * TICKS, idle=0, ours=30 * TICKS)
        ours = 2 * (1 - math.exp(-(rig.now - began) / 60))  # as the kernel averages two threads
        rig.put("proc/loadavg", f"{2.5 + ours:.2f} 1.00 1.00 3/100 1000\n")
        assert look.verdict.open, look.verdict.why
    rig.put("proc/loadavg", "6.50 1.00 1.00 3/100 1000\n")
    assert rig.look().verdict.why.startswith("2.3 other programs wait on each core")


def test_memory(rig: Rig) -> None:
    rig.put("proc/meminfo", "MemTotal: 500000 kB\nMemAvailable:   10240 kB\n")
    assert rig.look().verdict.why == "10 MiB of memory left, wants 96 MiB"


def test_a_hold_file_is_a_switch_for_people_and_programs(rig: Rig) -> None:
    rig.look()
    rig.put("run/qflare/hold", "camera calibration\nsecond line\n")
    path = rig.root / "run/qflare/hold"
    assert rig.look().verdict.why == f"held by {path}: camera calibration, wants that to end"
    rig.remove("run/qflare/hold")
    assert "waits" in rig.look().verdict.why
    assert rig.look(after=120).verdict.open


def test_metered_networks_wait_unless_the_owner_says_otherwise(tmp_path: Path) -> None:
    modem = {"sys/class/net/eth0/uevent": "DEVTYPE=wwan\nINTERFACE=eth0\n"}
    rig = Rig(tmp_path)
    rig.put(*next(iter(modem.items())))
    assert rig.look().verdict.why == "eth0 is metered (a modem), wants a network without charges"
    for settings in (NetworkGate(metered="use"), NetworkGate(unmetered_interfaces=("eth*",))):
        rig = Rig(tmp_path, GatesSection(network=settings))
        rig.put(*next(iter(modem.items())))
        assert rig.look().verdict.open


def test_samples_matter_before_training_and_not_during_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, GatesSection(samples=SamplesGate(100)))
    assert rig.look(new_samples=40).verdict.why == "40 new samples, wants 100"
    assert rig.look(after=300, new_samples=100).verdict.open
    assert rig.look(new_samples=3, training=True).verdict.open
    assert not rig.look(new_samples=3).verdict.open


class TestWindows:
    SETTINGS = GatesSection(windows=(Window("22:00", "06:00"),), timezone="Europe/Berlin")

    def test_the_hours_of_the_owners_zone(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, self.SETTINGS)
        assert rig.look(clock_right=True).verdict.why == (
            "Fri 2027-01-15 09:00 is outside the hours for training, wants Fri 2027-01-15 22:00"
        )
        assert not rig.look(after=13 * 3600 - 16, clock_right=True).verdict.open
        assert rig.look(after=1, clock_right=True).verdict.open
        assert rig.says(Gate.WINDOWS).endswith("until Sat 2027-01-16 06:00")

    def test_a_clock_that_is_not_synchronised(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, self.SETTINGS)
        rig.wall += 14 * 3600
        (tmp_path / "run/systemd/timesync").mkdir(parents=True)
        assert "isn't synchronised yet" in rig.look().verdict.why
        rig.put("run/systemd/timesync/synchronized", "")
        assert rig.look(after=120).verdict.open
        rig.wall = 1000.0
        assert rig.look().verdict.why == (
            "the clock has not been set, wants the time, from a time server"
        )

    def test_a_battery_backed_clock_will_do(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, self.SETTINGS)
        rig.wall += 14 * 3600
        (tmp_path / "run/systemd/timesync").mkdir(parents=True)
        rig.put("sys/class/rtc/rtc0/hctosys", "1\n")
        assert rig.look().verdict.open

    def test_the_systems_zone_and_a_broken_one(self, tmp_path: Path) -> None:
        import zoneinfo

        zone = next((p for d in zoneinfo.TZPATH if (p := Path(d) / "Asia/Tokyo").is_file()), None)
        if zone is None:
            pytest.skip("no time zones below " + ", ".join(zoneinfo.TZPATH))
        rig = Rig(tmp_path, GatesSection(windows=(Window("16:00", "18:00"),)))
        assert "Fri 2027-01-15 08:00 is outside" in rig.look(clock_right=True).verdict.why
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/localtime").write_bytes(zone.read_bytes())
        assert rig.look(after=120, clock_right=True).verdict.open
        (tmp_path / "etc/localtime").write_bytes(b"TZif2 and no more")
        assert rig.look(clock_right=True).verdict.open
        why = rig.look(after=400, clock_right=True).verdict.why
        assert "is no time zone" in why
        assert "set gates.timezone" in why

    def test_a_zone_that_nobody_knows_is_a_fault_of_configuration(self, tmp_path: Path) -> None:
        for name in ("Europe/Berlyn", "../etc/passwd", "\0", ""):
            with pytest.raises(ConfigFault, match=r"gates\.timezone"):
                Rig(tmp_path, GatesSection(windows=(Window("22:00", "06:00"),), timezone=name))


class TestFailingSensors:
    def test_heat_that_cannot_be_read_closes_after_a_while(self, rig: Rig) -> None:
        rig.look()
        rig.put(HEAT, "hot\n")
        look = rig.look()
        assert look.verdict.open
        assert [(c.level, c.gate, c.event) for c in look.changes] == [
            ("warning", Gate.TEMPERATURE, "sensor fails")
        ]
        assert rig.look(after=290).verdict.open
        look = rig.look()
        assert "'hot' is no number" in look.verdict.why
        assert "gates.temperature.enabled = false" in look.verdict.why
        rig.put(HEAT, "40000\n")
        look = rig.look(after=120)
        assert look.verdict.open
        assert [c.event for c in look.changes] == ["gate opened", "sensor works again"]

    def test_memory_that_cannot_be_read_is_reported_and_holds_nothing_up(self, rig: Rig) -> None:
        rig.remove("proc/meminfo")
        look = rig.look()
        assert look.verdict.open
        assert ("warning", Gate.MEMORY) in [(c.level, c.gate) for c in look.changes]
        line = next(x for x in look.verdict.lines if x.gate is Gate.MEMORY)
        assert "ProcSubset" in (line.trouble or "")

    def test_a_sensor_that_goes_away_does_not_cut_a_rest_short(self, rig: Rig) -> None:
        rig.look()
        rig.put(BATTERY, "5\n")
        assert not rig.look().verdict.open
        for name in ("type", "status", "capacity"):
            rig.remove(f"sys/class/power_supply/BAT0/{name}")
        assert rig.look().verdict.why == "can't be seen any more, waits 105 s more to be sure"
        look = rig.look(after=105)
        assert look.verdict.open
        assert rig.says(Gate.POWER) == "does not apply"


def test_switched_off(tmp_path: Path) -> None:
    rig = Rig(tmp_path, GatesSection(enabled=False))
    rig.put(BATTERY, "1\n")
    assert rig.look().verdict.open
    assert {e["standing"] for e in rig.keeper.describe()["gates"]} == {"off"}


def test_due(rig: Rig) -> None:
    assert rig.keeper.due_in == 0
    rig.look()
    assert rig.keeper.due_in == 15
    rig.now += 20
    assert rig.keeper.due_in == 0


def test_the_description_is_json(rig: Rig) -> None:
    rig.look()
    rig.put(BATTERY, "5\n")
    rig.look()
    rig.look(after=40)
    said = json.loads(json.dumps(rig.keeper.describe()))
    assert [entry["gate"] for entry in said["gates"]] == [str(gate) for gate in Gate]
    assert said["open"] is False
    assert said["why"] == "battery at 5 %, wants 30 % or mains power"
    power = said["gates"][1]
    assert power == {
        "gate": "power",
        "standing": "closed",
        "says": said["why"],
        "for_seconds": 40.0,
    }


def test_describing_needs_no_daemon(tmp_path: Path) -> None:
    said = describe(GatesSection(), tmp_path)
    assert len(said["gates"]) == len(Gate)
    load = next(entry for entry in said["gates"] if entry["gate"] == "load")
    assert "of the processor" in load["says"] or "wait" in load["says"]


@pytest.mark.parametrize(
    ("toml", "word"),
    [
        ("[power]\nbattery = { closes = 30, opens = 20 }", "opens"),
        ("[temperature]\ncelsius = { closes = 60, opens = 60 }", "opens"),
        ('[[windows]]\nstart = "25:00"\nend = "06:00"', "start"),
        ('[[windows]]\nstart = "22:00"\nend = "06:00"\ndays = ["someday"]', "days"),
        ('[[windows]]\nstart = "24:00"\nend = "06:00"', "start"),
        ("[power]\nbatery = 3", "power.batery"),
        ("every_seconds = 0", "every_seconds"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, toml: str, word: str) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(toml)
    with pytest.raises(ConfigFault, match=word):
        load(GatesSection, "gates", path, {})


def test_what_the_daemon_imports_for_the_gates_is_little() -> None:
    code = (
        "import sys, edge_runtime.gates.keeper\n"
        "print(*{'numpy', 'zoneinfo', 'subprocess', 'cryptography'} & set(sys.modules))"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_settings_in_the_documentation_are_settings(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/integrator.md").read_text()
    written = page.split("<!-- parsed by a test -->\n```toml\n")[1].split("```")[0]
    gates = tomllib.loads(written)["gates"]
    settings = parse(GatesSection, gates)
    rig = Rig(tmp_path, settings)
    rig.look(new_samples=1000, clock_right=True)
    assert [line.gate for line in rig.keeper.verdict.reasons] == [Gate.WINDOWS]

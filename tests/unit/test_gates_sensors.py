"""Each sensor over a tree that stands for "/": Raspberry Pi, Jetson, and what breaks."""

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edge_runtime.gates.files import Unreadable
from edge_runtime.gates.load import LoadSensor
from edge_runtime.gates.network import NetworkSensor, default_interface
from edge_runtime.gates.power import read_power
from edge_runtime.gates.readings import (
    Disk,
    Gate,
    Heat,
    Network,
    Power,
    Readings,
    Seen,
    Throttling,
)
from edge_runtime.gates.rules import weigh
from edge_runtime.gates.settings import Floor, GatesSection, NetworkGate
from edge_runtime.gates.space import read_disk, read_hold
from edge_runtime.gates.thermal import ThrottlingSensor, ask_firmware, read_heat
from tests.gate_rig import BOARD, put

SUPPLY = "sys/class/power_supply"
THERMAL = "sys/class/thermal"
MODEL = {"sys/firmware/devicetree/base/model": "Raspberry Pi 4 Model B Rev 1.4\0"}


def battery(root: Path, name: str = "BAT0", **more: str) -> None:
    values = {"type": "Battery", "status": "Discharging", **more}
    put(root, {f"{SUPPLY}/{name}/{key}": f"{value}\n" for key, value in values.items()})


class TestPower:
    def test_no_supply_at_all(self, tmp_path: Path) -> None:
        assert read_power(tmp_path) == Seen()

    def test_mains_without_a_battery_has_no_gate(self, tmp_path: Path) -> None:
        """A Jetson on its barrel jack shows a USB-C supply that is offline."""
        put(tmp_path, {f"{SUPPLY}/ucsi/type": "USB\n", f"{SUPPLY}/ucsi/online": "0\n"})
        assert read_power(tmp_path) == Seen()

    @pytest.mark.parametrize(
        ("status", "online", "draining"),
        [
            ("Discharging", "0", True),
            ("Discharging", "1", True),  # mains too weak
            ("Charging", "0", False),
            ("Full", "0", False),
            ("Unknown", "0", True),
            ("Unknown", "1", False),
        ],
    )
    def test_draining(self, tmp_path: Path, status: str, online: str, draining: bool) -> None:
        battery(tmp_path, status=status, capacity="50")
        put(tmp_path, {f"{SUPPLY}/AC/type": "Mains\n", f"{SUPPLY}/AC/online": f"{online}\n"})
        assert read_power(tmp_path) == Seen(Power(draining, 50))

    def test_a_mouse_is_no_supply_and_an_empty_bay_no_battery(self, tmp_path: Path) -> None:
        battery(tmp_path, "mouse", scope="Device", capacity="3")
        battery(tmp_path, "BAT1", present="0", capacity="0")
        assert read_power(tmp_path) == Seen()

    def test_two_batteries_count_by_their_mean(self, tmp_path: Path) -> None:
        battery(tmp_path, "BAT0", capacity="10")
        battery(tmp_path, "BAT1", capacity="90")
        assert read_power(tmp_path) == Seen(Power(True, 50))

    def test_a_level_by_energy_or_charge(self, tmp_path: Path) -> None:
        battery(tmp_path, energy_now="250", energy_full="1000")
        battery(tmp_path, "BAT1", charge_now="750", charge_full="1000")
        assert read_power(tmp_path) == Seen(Power(True, 50))

    def test_a_level_that_is_none(self, tmp_path: Path) -> None:
        battery(tmp_path, capacity="255")
        seen = read_power(tmp_path)
        assert seen.value is None
        assert "255 % is no level" in (seen.trouble or "")

    def test_one_broken_battery_of_two_is_reported(self, tmp_path: Path) -> None:
        battery(tmp_path, capacity="what")
        battery(tmp_path, "BAT1", capacity="40")
        seen = read_power(tmp_path)
        assert seen.value == Power(True, 40)
        assert "'what' is no number" in (seen.trouble or "")

    def test_a_battery_that_hides_its_level_closes_while_it_drains(self, tmp_path: Path) -> None:
        battery(tmp_path)
        weighed = weigh(Readings(power=read_power(tmp_path)), GatesSection())[Gate.POWER]
        assert weighed.finding is not None
        assert weighed.finding.wish.value == "close"
        assert "doesn't say its level" in weighed.finding.shows


class TestHeat:
    def zones(self, root: Path, **temps: str) -> None:
        for i, (kind, temp) in enumerate(temps.items()):
            zone = f"{THERMAL}/thermal_zone{i}"
            put(root, {f"{zone}/type": kind.replace("_", "-"), f"{zone}/temp": temp})

    def test_the_hottest_zone_counts(self, tmp_path: Path) -> None:
        self.zones(tmp_path, cpu_thermal="51000", gpu_thermal="62500", soc="20000")
        assert read_heat(tmp_path, ()) == Seen(Heat(62.5, "gpu-thermal"))

    def test_what_is_ignored(self, tmp_path: Path) -> None:
        self.zones(tmp_path, PMIC_Die="100000", CPU_therm="41000")
        assert read_heat(tmp_path, ("PMIC-Die",)) == Seen(Heat(41.0, "CPU-therm"))

    def test_a_zone_that_is_powered_down_or_absurd(self, tmp_path: Path) -> None:
        self.zones(tmp_path, cv0_thermal="", cpu_thermal="45000", odd="-274000")
        seen = read_heat(tmp_path, ())
        assert seen.value == Heat(45.0, "cpu-thermal")
        assert "is no number" in (seen.trouble or "")
        assert "-274 °C is no temperature" in (seen.trouble or "")

    def test_the_boards_own_zones_come_first(self, tmp_path: Path) -> None:
        self.zones(tmp_path, cpu_thermal="51000", iwlwifi="85000")
        assert read_heat(tmp_path, (), ("cpu-*",)).value == Heat(51.0, "cpu-thermal")
        assert read_heat(tmp_path, (), ("tj-thermal",)).value == Heat(85.0, "iwlwifi")

    def test_no_zone(self, tmp_path: Path) -> None:
        assert read_heat(tmp_path, ()) == Seen()


def never(program: Path) -> str:
    raise AssertionError("must not be asked")


class TestThrottling:
    def test_nothing_can_tell(self, tmp_path: Path) -> None:
        assert ThrottlingSensor(tmp_path, never).read(0) == Seen()

    def test_the_kernels_own_cooling(self, tmp_path: Path) -> None:
        put(tmp_path, BOARD)
        sensor = ThrottlingSensor(tmp_path, None)
        assert sensor.read(0) == Seen(Throttling(()))
        put(tmp_path, {f"{THERMAL}/cooling_device0/cur_state": "3\n"})
        assert sensor.read(1).value == Throttling(
            ("the kernel slows the board down (cpufreq-cpu0 at step 3)",)
        )

    def test_a_fan_that_turns_slows_nothing(self, tmp_path: Path) -> None:
        device = f"{THERMAL}/cooling_device0"
        put(tmp_path, {f"{device}/type": "pwm-fan\n", f"{device}/cur_state": "4\n"})
        assert ThrottlingSensor(tmp_path, None).read(0) == Seen()

    def test_low_voltage_by_hwmon(self, tmp_path: Path) -> None:
        put(tmp_path, {**BOARD, "sys/class/hwmon/hwmon0/in0_lcrit_alarm": "1\n"})
        seen = ThrottlingSensor(tmp_path, never).read(0)
        assert seen.value is not None
        assert "voltage is too low" in seen.value.causes[0]

    def test_the_firmwares_word(self, tmp_path: Path) -> None:
        path = "sys/devices/platform/soc/soc:firmware/get_throttled"
        sensor = ThrottlingSensor(tmp_path, never)
        for word, causes in (("0\n", 0), ("50000\n", 0), ("50005\n", 2), ("f\n", 4)):
            put(tmp_path, {path: word})
            seen = sensor.read(0)
            assert seen.value is not None
            assert len(seen.value.causes) == causes, word
        put(tmp_path, {path: "throttled?\n"})
        assert "is no word of bits" in (sensor.read(0).trouble or "")

    def test_the_firmwares_word_on_a_board_that_names_its_soc_by_address(
        self, tmp_path: Path
    ) -> None:
        soc = "sys/devices/platform/soc@107c000000"
        put(tmp_path, {f"{soc}/soc@107c000000:firmware/get_throttled": "4\n", **BOARD})
        seen = ThrottlingSensor(tmp_path, never).read(0)
        assert seen.value == Throttling(("the firmware throttles the processor",))

    def test_jetsons_counters_matter_when_they_rise(self, tmp_path: Path) -> None:
        monitor = "sys/class/hwmon/hwmon3"
        put(tmp_path, {f"{monitor}/name": "soctherm_oc\n", f"{monitor}/oc3_event_cnt": "37\n"})
        put(tmp_path, {f"{monitor}/oc3_throt_en": "1\n"})
        sensor = ThrottlingSensor(tmp_path, None)
        assert sensor.read(0) == Seen(Throttling(()))
        put(tmp_path, {f"{monitor}/oc3_event_cnt": "40\n"})
        seen = sensor.read(15)
        assert seen.value is not None
        assert "oc3_event_cnt rose by 3" in seen.value.causes[0]
        assert sensor.read(30) == Seen(Throttling(()))

    def program(self, root: Path, script: str) -> None:
        put(root, {**MODEL, "dev/vcio": "", "usr/bin/vcgencmd": f"#!/bin/sh\n{script}\n"})
        (root / "usr/bin/vcgencmd").chmod(0o755)

    def test_the_program_is_asked_seldom(self, tmp_path: Path) -> None:
        self.program(tmp_path, f"echo x >> {tmp_path}/asked; echo throttled=0x50004")
        sensor = ThrottlingSensor(tmp_path, ask_firmware)
        for now in (0.0, 15.0, 299.0, 300.0):
            seen = sensor.read(now)
            assert seen.value == Throttling(("the firmware throttles the processor",))
        assert (tmp_path / "asked").read_text() == "x\nx\n"

    def test_hwmon_tells_of_voltage_now_and_the_program_of_the_rest(self, tmp_path: Path) -> None:
        put(tmp_path, BOARD)
        self.program(tmp_path, "echo throttled=0x5")
        seen = ThrottlingSensor(tmp_path, ask_firmware).read(0)
        assert seen.value == Throttling(("the firmware throttles the processor",))

    def test_in_a_sandbox_without_its_device_the_program_is_not_asked(self, tmp_path: Path) -> None:
        """PrivateDevices=yes: it couldn't tell, and that is no trouble to report."""
        put(tmp_path, BOARD)
        self.program(tmp_path, "exit 1")
        (tmp_path / "dev/vcio").unlink()
        assert ThrottlingSensor(tmp_path, never).read(0) == Seen(Throttling(()))

    def test_the_program_is_not_asked_on_another_board(self, tmp_path: Path) -> None:
        self.program(tmp_path, "exit 1")
        put(tmp_path, {"sys/firmware/devicetree/base/model": "NVIDIA Jetson Orin Nano\0"})
        assert ThrottlingSensor(tmp_path, never).read(0) == Seen()

    def test_a_program_that_fails_is_reported(self, tmp_path: Path) -> None:
        self.program(tmp_path, "echo VCHI initialization failed; exit 255")
        seen = ThrottlingSensor(tmp_path, ask_firmware).read(0)
        assert seen.value is None
        assert "group video" in (seen.trouble or "")
        with pytest.raises(Unreadable):
            ask_firmware(tmp_path / "none")


class TestLoad:
    def test_children_and_what_they_left_count_as_ours(self, tmp_path: Path) -> None:
        put(tmp_path, BOARD)
        child = "7 (a ) b) R 1 0 0 0 0 0 0 0 0 0 {} 0 0 0 20 0 1 0 1 1 1\n"
        put(tmp_path, {"proc/7/stat": child.format(100)})
        sensor = LoadSensor(tmp_path, ticks=100)
        first = sensor.read(0, (7,)).value
        assert first is not None
        assert first.cpu is None
        put(tmp_path, {"proc/stat": "cpu 2100 0 100 1800 0 0 0 0 0 0\ncpu0 1\ncpu1 1\n"})
        put(tmp_path, {"proc/7/stat": child.format(2000)})
        second = sensor.read(15, (7,)).value
        assert second is not None
        assert second.cpu == pytest.approx(100 * 100 / 3000)
        # The child ends and is waited for: its time moves to "cutime" of ours.
        (tmp_path / "proc/7/stat").unlink()
        own = "1 (q) S 0 0 0 0 0 0 0 0 0 0 10 10 2250 0 20 0 1 0 1 1 1\n"
        put(tmp_path, {"proc/self/stat": own})
        put(tmp_path, {"proc/stat": "cpu 2400 0 100 1800 0 0 0 0 0 0\n"})
        third = sensor.read(30, ()).value
        assert third is not None
        assert third.cpu == pytest.approx(100 * 50 / 300)

    def test_a_counter_that_went_back_starts_anew(self, tmp_path: Path) -> None:
        put(tmp_path, BOARD)
        sensor = LoadSensor(tmp_path, ticks=100)
        found = []
        for now, stat in (
            (15, "cpu 100 0 100 800"),
            (30, "cpu 1000 0 100 900"),
            (45, "cpu 1 0 1 8"),
            (60, "cpu 51 0 1 58"),
        ):
            put(tmp_path, {"proc/stat": f"{stat} 0 0 0 0 0 0\n"})
            load = sensor.read(now, ()).value
            assert load is not None
            found.append(load.cpu)
        assert found == [None, 90.0, None, 50.0]

    def test_this_machine(self) -> None:
        sensor = LoadSensor(Path("/"))
        sensor.read(0, ())
        seen = sensor.read(15, (os.getpid(),))
        assert seen.trouble is None
        assert seen.value is not None


@dataclass(frozen=True)
class Volume:
    f_frsize: int = 4096
    f_bavail: int = 2**20
    f_files: int = 1000
    f_favail: int = 500
    f_flag: int = 0


class TestSpace:
    def test_this_disk(self, tmp_path: Path) -> None:
        seen = read_disk(tmp_path)
        assert seen.value is not None
        assert seen.value.free > 0

    @pytest.mark.parametrize(
        ("volume", "open_", "word"),
        [
            (Volume(), "open", "4096 MiB"),
            (Volume(f_bavail=25_600), "stay", "100 MiB"),
            (Volume(f_bavail=2560), "close", "10 MiB"),
            (Volume(f_favail=7), "close", "room for 7 more files"),
            (Volume(f_files=0, f_favail=0), "open", "4096 MiB"),
            (Volume(f_flag=os.ST_RDONLY), "close", "read-only"),
        ],
    )
    def test_full_worn_out_or_well(self, volume: Volume, open_: str, word: str) -> None:
        readings = Readings(disk=read_disk(Path("/"), lambda _: replace(volume)))
        finding = weigh(readings, GatesSection())[Gate.DISK].finding
        assert finding is not None
        assert finding.wish.value == open_
        assert word in finding.shows

    def test_a_card_that_fails(self) -> None:
        def fail(_: Path) -> Volume:
            raise OSError(errno.EIO, "broken")

        seen: Seen[Disk] = read_disk(Path("/state"), fail)
        assert seen == Seen(None, "/state: Input/output error")

    def test_a_holders_reason_is_cleaned(self, tmp_path: Path) -> None:
        path = tmp_path / "hold"
        path.write_bytes(b"\x1b[31mred" + b"x" * 500)
        why = read_hold(path).value
        assert why is not None
        assert why.isprintable()
        assert len(why) < len(str(path)) + 120


class Manager:
    """What NetworkManager would answer, and how often it was asked."""

    def __init__(self, *answers: int | Unreadable | None) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, root: Path) -> int | None:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Unreadable):
            raise answer
        return answer


class TestNetwork:
    IPV6 = (
        "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
        "fe800000000000000000000000000001 {} 00000002 00000000 00000003     {}\n"
        "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
        "00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n"
    )

    def test_the_lowest_metric_wins(self, tmp_path: Path) -> None:
        assert default_interface(tmp_path) is None
        route = BOARD["proc/self/net/route"]
        better = route.splitlines()[1].replace("eth0", "wlan0").replace("\t100\t", "\t50\t")
        put(tmp_path, {"proc/self/net/route": route + better + "\n"})
        assert default_interface(tmp_path) == "wlan0"

    def test_ipv6_only(self, tmp_path: Path) -> None:
        put(tmp_path, {"proc/self/net/route": BOARD["proc/self/net/route"].splitlines()[0]})
        put(tmp_path, {"proc/self/net/ipv6_route": self.IPV6.format("00000400", "wlan1")})
        assert default_interface(tmp_path) == "wlan1"

    def test_this_machine(self) -> None:
        default_interface(Path("/"))

    @pytest.mark.parametrize(
        ("answer", "metered"), [(None, 0), (0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (9, 0)]
    )
    def test_network_manager_says(self, tmp_path: Path, answer: int | None, metered: int) -> None:
        put(tmp_path, BOARD)
        seen = NetworkSensor(tmp_path, NetworkGate(), Manager(answer)).read(0, 5.0)
        expected = "NetworkManager says so" if metered else None
        assert seen == Seen(Network("eth0", expected, 5.0))

    def test_it_is_asked_once_a_minute_and_when_the_interface_changes(self, tmp_path: Path) -> None:
        put(tmp_path, BOARD)
        manager = Manager(2, 2, Unreadable("no"), 1)
        sensor = NetworkSensor(tmp_path, NetworkGate(), manager)
        for now in (0.0, 30.0, 59.0):
            sensor.read(now, None)
        assert manager.asked == 1
        route = BOARD["proc/self/net/route"].replace("eth0", "wlan0")
        put(tmp_path, {"proc/self/net/route": route})
        sensor.read(59.0, None)
        assert manager.asked == 2
        assert sensor.read(120.0, None) == Seen(Network("wlan0", None), "no")
        assert sensor.read(700.0, None).trouble == "no"
        assert sensor.read(720.0, None).value == Network("wlan0", "NetworkManager says so")

    def test_the_owners_lists_come_first(self, tmp_path: Path) -> None:
        put(tmp_path, {**BOARD, "sys/class/net/eth0/uevent": "DEVTYPE=wwan\n"})
        manager = Manager()
        free = NetworkGate(unmetered_interfaces=("eth*",), metered_interfaces=("eth0",))
        assert NetworkSensor(tmp_path, free, manager).read(0, None).value == Network("eth0", None)
        paid = NetworkGate(metered_interfaces=("eth?",))
        value = NetworkSensor(tmp_path, paid, manager).read(0, None).value
        assert value == Network("eth0", "gates.network.metered_interfaces")
        assert manager.asked == 0

    def test_a_rate_has_its_band(self) -> None:
        settings = GatesSection(network=NetworkGate(kbit=Floor(64, 128)))
        for kbit, wish in ((10.0, "close"), (100.0, "stay"), (128.0, "open"), (None, "open")):
            readings = Readings(network=Seen(Network("eth0", None, kbit)))
            finding = weigh(readings, settings)[Gate.NETWORK].finding
            assert finding is not None
            assert finding.wish.value == wish

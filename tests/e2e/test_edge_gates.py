"""Every gate through the real daemon: its process sees a tree of ours in place of /sys and /proc.

That needs a mount namespace, and so root.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.gates.network import default_interface
from qflare.host.broker import BrokerKind, mosquitto
from qflare.messages import Presence
from qflare.topics import All
from tests.e2e.conftest import RunningBroker, WithBroker
from tests.e2e.test_edge_process import (
    BUSY,
    ROOT,
    count,
    desk,
    device,
    logged,
    slow_offer,
    until,
    write_device,
)
from tests.edge_lab import Lab
from tests.gate_rig import put

pytestmark = pytest.mark.slow

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="needs root and unshare (util-linux), for a mount namespace",
)

WELL = {
    "class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "class/thermal/thermal_zone0/temp": "48312\n",
    "class/power_supply/BAT0/type": "Battery\n",
    "class/power_supply/BAT0/status": "Discharging\n",
    "class/power_supply/BAT0/capacity": "80\n",
    "class/hwmon/hwmon0/name": "rpi_volt\n",
    "platform/soc/soc:firmware/get_throttled": "50000\n",  # only what has been
    "meminfo": "MemTotal:  500000 kB\nMemFree:  100000 kB\nMemAvailable:  250000 kB\n",
}
ILL = {
    "class/thermal/thermal_zone0/temp": "91000\n",
    "class/power_supply/BAT0/capacity": "7\n",
    "platform/soc/soc:firmware/get_throttled": "50005\n",
    "meminfo": "MemTotal:  500000 kB\nMemFree:  10000 kB\nMemAvailable:  20000 kB\n",
}
_MOUNT = """
set -e
mount --make-rprivate /
mount --bind {tree}/class /sys/class
mount --bind {tree}/platform /sys/devices/platform
mount --bind {tree}/meminfo /proc/meminfo
mount --bind {tree}/stat /proc/stat
mount -t tmpfs -o size=24m,mode=700 none {state}
{more}
exec "$@"
"""
# What the machine that tests does must not count, but what the test does.
_GATES = """
[gates.load]
memory_stall = { closes = 1000, opens = 999 }
io_stall = { closes = 1000, opens = 999 }
queue = { closes = 1000, opens = 999 }
[gates.disk]
free_mib = { closes = 6, opens = 8 }
"""


class Others:
    """What other programs take of the processor, as /proc/stat counts it, tick by tick."""

    def __init__(self, file: Path) -> None:
        self._file, self.share = file, 0.1
        self._busy = self._idle = 1000

    async def run(self) -> None:
        while True:
            self._busy += int(200 * self.share)
            self._idle += int(200 * (1 - self.share))
            cpu = f"cpu  {self._busy} 0 0 {self._idle} 0 0 0 0 0 0\n"
            # In place: the daemon sees this very file.
            self._file.write_text(cpu + "cpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n")
            await asyncio.sleep(0.5)


@asynccontextmanager
async def masked(
    config: Path, tree: Path, more: str = "", environ: Mapping[str, str] | None = None
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The daemon, that sees `tree`; `more` are commands for what else it is to see."""
    state = config.parent / "state"
    state.mkdir()
    script = _MOUNT.format(tree=tree, state=state, more=more)
    daemon = [sys.executable, "-m", "edge_runtime.daemon", "--config", str(config)]
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *daemon]
    with (config.parent / "stderr").open("ab") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=errors, env={**os.environ, **(environ or {})}
        )
    others = Others(tree / "stat")
    task = asyncio.create_task(others.run())
    process.others = others  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        task.cancel()
        with suppress(ProcessLookupError):
            process.kill()
        await asyncio.to_thread(process.wait)


def says(config: Path, event: str) -> dict[str, str]:
    """The last words of each gate of which this was said."""
    return {
        str(line["gate"]): str(line["says"]) for line in logged(config) if line["event"] == event
    }


def in_place(tree: Path, files: dict[str, str]) -> None:
    for name, value in files.items():
        (tree / name).write_text(value)


def reread(config: Path, process: subprocess.Popen[bytes], text: str) -> None:
    config.write_text(text)
    process.send_signal(signal.SIGHUP)


@pytest.fixture
def broker_kind() -> BrokerKind:
    """One kind of broker will do: gates don't look at it."""
    if mosquitto.find() is None:
        pytest.skip("mosquitto is not installed")
    return BrokerKind.MOSQUITTO


@needs_root
def test_each_gate_closes_and_opens(with_broker: WithBroker, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    put(tree, {**WELL, "stat": "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"})
    routed = default_interface(Path("/")) is not None

    async def body(broker: RunningBroker) -> None:
        config = write_device(tmp_path, Lab(), broker)
        text = config.read_text()
        for gate in BUSY:
            text = text.replace(f"{gate}.enabled = false\n", "")
        text = text.replace("[gates]\n", "[gates]\nsettle_seconds = 0\n")
        text = text.replace("[gates.hold]", f"{_GATES}[gates.hold]")
        config.write_text(text)
        later = datetime.now(UTC) + timedelta(hours=6)
        hours = f'start = "{later:%H}:00", end = "{later:%H}:59"'
        shut = text.replace("[gates]\n", f'[gates]\ntimezone = "UTC"\nwindows = [{{ {hours} }}]\n')
        shut += "[gates.samples]\nnew = 500\n"
        shut += '[gates.network]\nmetered_interfaces = ["*"]\n'
        wanted = {"hold", "power", "temperature", "throttling", "load", "memory", "disk"}
        wanted |= {"windows", "samples"} | ({"network"} if routed else set())

        async with desk(broker, Lab()) as it, masked(config, tree) as process:
            await until(lambda: it.states and it.states[-1].status is Presence.ONLINE)
            await until(lambda: it.states[-1].detail == "")
            assert not says(config, "gate closed").keys() & wanted
            await until(lambda: it.reports)
            health = it.reports[0].health
            assert {gate.gate for gate in health.gates if gate.standing == "open"} >= {
                *("hold", "power", "temperature", "throttling", "memory", "disk")
            }
            figures = dict(health.figures)
            assert (figures["celsius"], figures["battery_percent"]) == (48, 80)
            assert {"disk_free_mb", "state_kb", "memory_mb", "written_kb"} <= figures.keys()
            in_place(tree, ILL)
            (tmp_path / "hold").write_text("the pump is running")
            process.others.share = 0.95  # type: ignore[attr-defined]
            filler = Path(f"/proc/{process.pid}/root{tmp_path / 'state' / 'filler'}")
            filler.write_bytes(bytes(20 * 2**20))
            reread(config, process, shut)
            await until(lambda: says(config, "gate closed").keys() >= wanted)
            closed = says(config, "gate closed")
            for gate, words in (
                ("hold", "the pump is running"),
                ("power", "battery at 7 %, wants 30 % or mains power"),
                ("temperature", "cpu-thermal at 91 °C, wants 65 °C or less"),
                ("throttling", "the supply voltage is too low"),
                ("throttling", "the firmware throttles the processor"),
                ("load", "other programs take"),
                ("memory", "19.5 MiB of memory left, wants 96 MiB"),
                ("disk", "MiB of disk left, wants 8 MiB"),
                ("windows", "is outside the hours for training"),
                ("samples", "160 new samples, wants 500"),
            ):
                assert words in closed[gate]
            assert not routed or "is metered" in closed["network"]
            await until(lambda: it.states[-1].detail)

            in_place(tree, WELL)
            (tmp_path / "hold").unlink()
            filler.unlink()
            process.others.share = 0.1  # type: ignore[attr-defined]
            reread(config, process, text)
            await until(lambda: it.states[-1].detail == "")
            assert says(config, "gate opened").keys() >= wanted - {"windows", "samples"}

    with_broker(body)


def test_a_round_waits_for_new_samples(with_broker: WithBroker, tmp_path: Path) -> None:
    """An offer that comes while there are too few isn't trained on after a while all the same."""

    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        config.write_text(config.read_text() + "[gates.samples]\nnew = 100\n")

        with np.load(tmp_path / "data.npz") as found:
            all_of_them = dict(found)

        def samples(rows: int) -> None:
            some = {k: v[:rows] if k.endswith("train") else v for k, v in all_of_them.items()}
            np.savez(tmp_path / "new.npz", **some)
            (tmp_path / "new.npz").rename(tmp_path / "data.npz")

        async with desk(broker, lab) as it, device(config):
            it.to_all(All.OFFER, slow_offer(lab, 1, 1))
            await until(lambda: len(it.updates) == 1)
            (first,) = it.updates
            await until(lambda: it.states[-1].detail == "0 new samples, wants 100")
            it.to_all(All.MODEL, lab.release(1, lab.genesis, (first,)))
            await until(lambda: count(config, "update counted"))
            samples(90)
            it.to_all(All.OFFER, slow_offer(lab, 2, 1))
            await until(lambda: count(config, "offer accepted") == 2)
            await until(lambda: it.states[-1].detail == "90 new samples, wants 100")
            await asyncio.sleep(11)  # two looks: the gate doesn't open because an order waits
            assert len(it.updates) == 1
            samples(160)
            await until(lambda: len(it.updates) == 2)
        # What was learned from is remembered through a restart.
        async with desk(broker, lab) as it, device(config):
            await until(lambda: it.states and it.states[-1].detail == "0 new samples, wants 100")

    with_broker(body)


@pytest.mark.skipif(default_interface(Path("/")) is None, reason="needs a default route")
def test_a_slow_network_is_measured(with_broker: WithBroker, tmp_path: Path) -> None:
    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        text = config.read_text().replace("network.enabled = false\n", "")
        text = text.replace("[gates]\n", "[gates]\nsettle_seconds = 0\n")
        config.write_text(
            text + '[gates.network]\nmetered = "use"\nkbit = { closes = 1000, opens = 2000 }\n'
        )
        async with desk(broker, lab) as it, device(config):
            it.slow_s = 2.0
            it.to_all(All.OFFER, slow_offer(lab, 1, 1))
            await until(lambda: it.states and "wants 2000 kbit/s" in it.states[-1].detail)
            (closed,) = (v for k, v in says(config, "gate closed").items() if k == "network")
            assert float(closed.partition(" at ")[2].split()[0]) < 1000

    with_broker(body)


@needs_root
def test_memory_that_the_kernel_doesnt_limit_is_limited_and_told_of(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    put(tree, {**WELL, "stat": "cpu  0 0 0 0 0 0 0 0 0 0\n"})
    put(tree, {"cgroup/cgroup.controllers": "cpuset cpu io pids\n"})

    async def body(broker: RunningBroker) -> None:
        config = write_device(tmp_path, Lab(), broker)
        more = f"mount --bind {tree}/cgroup /sys/fs/cgroup"
        async with (
            desk(broker, Lab()) as it,
            masked(config, tree, more, {"INVOCATION_ID": "0" * 32}),
        ):
            await until(lambda: it.states and it.states[-1].status is Presence.ONLINE)
            said = it.states[-1].detail
            assert said.startswith("MemoryMax= does nothing: the kernel's memory cgroup is off")
            assert "cgroup_enable=memory" in said
            (line,) = (e for e in logged(config) if "MemoryMax=" in str(e["event"]))
            assert (line["level"], line["memory_mb"]) == ("warning", 500_000 // 1024 // 2)
            assert "cgroup_enable=memory" in str(line["remedy"])

    with_broker(body)

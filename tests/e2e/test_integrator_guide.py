"""docs/integrator.md leads from a sensor to an answer: its files are written, its commands run.

Only the address of the broker and the name of the port are others: a pseudo-terminal's.
"""

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from qflare.host.broker import BrokerKind
from tests.joined_fleet import Fleet, joinable
from tests.source_kit import CLASSES, Cable, motion, zoo_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("e2e")]
GUIDE = Path(__file__).parents[2] / "docs" / "integrator.md"
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
PORT, BROKER = "/dev/serial/by-id/usb-ACME_IMU-if00", "mqtts://broker.example:8883"


def steps() -> list[tuple[str, str]]:
    """What to do, in order: ("sh", command) and (file name, its text)."""
    section = GUIDE.read_text(encoding="utf-8").split("## From a sensor to an answer\n")[1]
    found: list[tuple[str, str]] = []
    for file, language, text in BLOCK.findall(section.split("\n## ")[0]):
        found += (
            [(file, text)] if file else [(language, line) for line in text.strip().splitlines()]
        )
    return found


class Sensor:
    """Six numbers a line, fifty lines a second: one motion for some time, then the other."""

    def __init__(self, name: Path) -> None:
        self.cable, self.stop = Cable(name), threading.Event()
        self.moves = CLASSES.index("ABD")
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        waves = {kind: motion(3000, kind).tolist() for kind in range(len(CLASSES))}
        began, sent = time.monotonic(), 0
        while not self.stop.wait(0.02):
            due = math.floor(50 * (time.monotonic() - began))
            for i in range(sent, due):
                row = waves[self.moves][i % 3000]
                self.cable.send((",".join(f"{v:.5g}" for v in row) + "\r\n").encode())
            sent = due


@contextmanager
def shell(home: Path) -> Iterator["Shell"]:
    made = Shell(home)
    try:
        yield made
    finally:
        for process in made.running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


class Shell:
    """One terminal, and programs in the background."""

    def __init__(self, home: Path) -> None:
        scripts = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # The machine that tests is busy, and that would close a gate.
        self.environment = {**os.environ, "PATH": scripts, "QFLARE_EDGE__GATES__ENABLED": "false"}
        self.home, self.running = home, list[subprocess.Popen[bytes]]()

    def run(self, command: str) -> str:
        """What it printed; it may run on if it ends with "&"."""
        line = command.removesuffix("&").strip()
        if line != command:
            with (self.home / f"log-{len(self.running)}").open("wb") as log:
                words = ["/bin/sh", "-c", f"exec {line}"]
                process = subprocess.Popen(
                    words, cwd=self.home, env=self.environment, stderr=log, start_new_session=True
                )
            self.running.append(process)
            return ""
        words = ["/bin/sh", "-c", command]
        done = subprocess.run(
            words, cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=120
        )
        wanted = (0, 1) if "sources.check" in command else (0,)  # 1: there is something to be done
        assert done.returncode in wanted, f"{command}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        return "".join(path.read_text()[-3000:] for path in sorted(self.home.glob("log-*")))


def follow(home: Path, fleet: Fleet) -> dict[str, str]:
    """Take every step; what the commands printed."""
    broker, said = "", dict[str, str]()
    sensor = Sensor(home / "port")
    with shell(home) as terminal:
        for kind, text in steps():
            if kind not in ("sh", "python"):
                (home / kind).write_text(
                    text.replace(PORT, str(home / "port")).replace(BROKER, broker)
                )
                continue
            if "ER" in text:
                sensor.moves = CLASSES.index("ER")
            if text.startswith("qflare slots"):
                until = time.monotonic() + 150
                while not any(it["published_at"] for it in fleet.export()["rounds"]):
                    assert time.monotonic() < until, terminal.logs()
                    time.sleep(1)
                while not (home / "state/model/active").exists():
                    assert time.monotonic() < until, terminal.logs()
                    time.sleep(0.2)
            if text.startswith("python ask.py"):
                until = time.monotonic() + 60
                while not (home / "model.sock").exists():
                    assert time.monotonic() < until, terminal.logs()
                    time.sleep(0.1)
            said[text] = terminal.run(text)
            if text.startswith("qflare device enrol"):
                broker = json.loads((home / "enrolled.json").read_text())["brokers"][0]
        said["log"] = terminal.logs()
    sensor.stop.set()
    return said


async def walk(tmp: Path) -> dict[str, str]:
    home = tmp / "desk"
    home.mkdir()
    async with joinable(tmp / "fleet", BrokerKind.MOSQUITTO, 1) as fleet:
        words = ("token", "new", "--name", "imu-1", "--out", str(home))
        (ticket,) = await asyncio.to_thread(fleet.operator, *words)
        Path(ticket["file"]).rename(home / "imu-1.ticket")
        (home / "model.tflite").write_bytes(zoo_bytes("watch_cnn"))
        return await asyncio.to_thread(follow, home, fleet)


def test_a_newcomer_gets_from_a_sensor_to_an_answer(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    said = asyncio.run(walk(tmp_path))
    tried = json.loads(said["qflare-collect --config edge.toml --try 3"])
    assert tried["ok"]
    assert set(tried["last"]) == {"ax", "ay", "az", "wx", "wy", "wz"}
    (checked,) = (json.loads(text) for command, text in said.items() if "sources.check" in command)
    assert checked["examples"]["train"] > 5
    assert said["python ask.py"].strip() in CLASSES
    assert "active" in said["qflare slots --config edge.toml"]

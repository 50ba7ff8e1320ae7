"""A board on a table: two pseudo-terminals, a worn cable between them, and a device at the far end.

The device is the real `qflare-provisiond` in a process of its own, on a directory tree as its root.
Run as a program, this module is that device, with an enrolment that needs no broker; the laptop's
side runs in the test, or as a process too.
"""

import argparse
import asyncio
import json
import os
import select
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from edge_runtime.enrol import Enrolled, EnrolmentRefused, NoAnswer
from edge_runtime.enrol_files import CERTIFICATE, MARKER, PASSWORD, EnrolFiles
from edge_runtime.provision import daemon
from edge_runtime.provision.system import System
from qflare.enrolment import Refusal, TicketTerms, issue_ticket, peek_terms
from qflare.envelope import sign
from qflare.host.files import write_atomic
from qflare.names import DeviceId
from tests.unit.coordinator_rig import FLEET, World

SERIAL = "10000000abcdef01"
MODEL = "Raspberry Pi 4 Model B Rev 1.4"
_WORLD: list[World] = []


def world() -> World:
    """One fleet for all tests: making keys takes time."""
    if not _WORLD:
        _WORLD.append(World(start=time.time()))
    return _WORLD[0]


def make_ticket(
    path: Path, *, board: str = "", serial: str = "", life: float = 3600.0, age: float = 0.0
) -> Path:
    """Write a ticket that is `age` seconds old."""
    now = int(time.time() - age)
    fleet = world()
    terms = TicketTerms(
        fleet=FLEET, token=os.urandom(16), secret=os.urandom(32), name=None, board=board,
        serial=serial, brokers=("mqtt://127.0.0.1:1",), ca=b"", user="enrol-1", password="x1",
        owner_key=fleet.owner.verify_key.raw, issued_at=now, expires_at=int(now + life),
    )  # fmt: skip
    raw = issue_ticket(terms, sign(fleet.manifest, fleet.owner), fleet.coordinator)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def make_root(root: Path, compatible: str = "raspberrypi,4-model-b") -> Path:
    """A directory tree as a Raspberry Pi 4 with NetworkManager has it."""
    tree = root / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(MODEL.encode() + b"\0")
    (tree / "serial-number").write_bytes(SERIAL.encode() + b"\0")
    (tree / "compatible").write_bytes(compatible.encode() + b"\0brcm,bcm2711\0")
    (root / "proc/meminfo").write_text("MemTotal:        1894248 kB\n")
    (root / "etc/NetworkManager/system-connections").mkdir(parents=True)
    (root / "etc/qflare").mkdir()
    zone = root / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("47232\n")
    (root / "var/lib/qflare").mkdir(parents=True)
    return root


def system_of(root: Path, clock_off: float = 0.0) -> System:
    """That tree's system; its clock starts wrong by `clock_off` and can be set."""
    held = {"off": clock_off}

    def set_clock(seconds: float) -> None:
        held["off"] = seconds - time.time()
        (root / "clock_was_set").write_text(f"{held['off']:.0f}")

    def run(command: tuple[str, ...]) -> str | None:
        with (root / "commands").open("a") as file:
            file.write(" ".join(command) + "\n")
        if (slow := root / "slow").exists() and command[0] == "systemctl":
            time.sleep(float(slow.read_text()))
        return None

    return System(
        config=root / "etc/qflare",
        state=root / "var/lib/qflare-provision",
        data=root / "var/lib/qflare",
        root=root,
        run=run,
        set_clock=set_clock,
        clock=lambda: time.time() + held["off"],
    )


async def enrol_here(
    ticket: bytes, directory: Path, board: str, serial: str, report: Callable[[str], None]
) -> Enrolled:
    """Enrolment as the real one leaves it, without a broker; <root>/enrol.json says how it goes."""
    script = directory.parent.parent / "enrol.json"
    how = json.loads(script.read_text()) if script.exists() else {}
    if how.get("unreachable"):
        report("broker: nobody is there")
        await asyncio.sleep(how.get("after", 0.2))
        raise NoAnswer("no answer within 0 s (no route); check the network")
    if how.get("refused"):
        raise EnrolmentRefused(Refusal(how["refused"]))
    terms = peek_terms(ticket)
    files = EnrolFiles(directory)
    files.pin_owner(terms.owner_key)
    key = files.device_key()
    report("asking the coordinator")
    with (directory.parent.parent / "asked").open("a") as file:
        file.write(terms.token.hex() + "\n")
    await asyncio.sleep(0.2)
    name = DeviceId.parse(f"{board}-{serial[-8:]}")
    write_atomic(directory / CERTIFICATE, b"certificate")
    write_atomic(directory / PASSWORD, b"password")
    write_atomic(directory / MARKER, b"{}")
    fingerprint = key.verify_key.fingerprint
    return Enrolled(name, fingerprint, terms.fleet, ("mqtts://broker:8883",), private_ca=False)


# --- the cable ----------------------------------------------------------------------------------


@dataclass
class Cable:
    """Two pseudo-terminals and what happens between them; rates are per byte."""

    loss: float = 0.0
    flip: float = 0.0
    double: float = 0.0
    noise: float = 0.0  # per piece that passes: a line of kernel messages
    speeds: bool = False  # ends that are set to different speeds don't understand each other
    seed: int = 1
    cut: bool = False
    passed: int = 0
    cut_after: int | None = None  # bytes, then the cable is cut until `mend`
    seen: bytearray = field(default_factory=bytearray)
    on_cut: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self._ends = [os.openpty(), os.openpty()]
        for master, slave in self._ends:
            tty.setraw(slave)
            os.set_blocking(master, False)
        self.laptop, self.device = (os.ttyname(slave) for _, slave in self._ends)
        self._random = Random(self.seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def mend(self) -> None:
        self.cut, self.cut_after = False, None

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for master, slave in self._ends:
            os.close(master)
            os.close(slave)

    def _carry(self) -> None:
        (left, _), (right, _) = self._ends
        while not self._stop.is_set():
            ready, _, _ = select.select([left, right], [], [], 0.05)
            for source in ready:
                try:
                    data = os.read(source, 1024)
                except OSError:
                    continue
                self.passed += len(data)
                self.seen += data
                if self.cut_after is not None and self.passed > self.cut_after:
                    self.cut, self.cut_after = True, None
                    if self.on_cut:
                        self.on_cut()
                if not self.cut:
                    self._put(right if source == left else left, self._worn(data))

    def _put(self, target: int, data: bytes) -> None:
        while data and not self._stop.is_set():
            try:
                data = data[os.write(target, data) :]
            except BlockingIOError:
                time.sleep(0.002)  # nobody reads; what a UART would lose, we wait with
                if self.cut:
                    return

    def _worn(self, data: bytes) -> bytes:
        chance = self._random.random
        if self.speeds and len({termios.tcgetattr(slave)[5] for _, slave in self._ends}) > 1:
            return bytes(byte | 0x80 for byte in self._random.randbytes(len(data)))
        out = bytearray()
        if chance() < self.noise:
            out += b"[  123.456789] usb 1-1: reset high-speed USB device\r\n"
        for byte in data:
            if chance() < self.loss:
                continue
            out.append(byte ^ (1 << self._random.randrange(8)) if chance() < self.flip else byte)
            if chance() < self.double:
                out.append(byte)
        return bytes(out)


@dataclass
class Device:
    """The far end's process, which can be killed and started again."""

    root: Path
    tty: str
    options: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.provision_kit", str(self.root), self.tty]
        log = (self.root / "device.log").open("ab")
        self.process = subprocess.Popen([*command, *self.options], stderr=log)
        log.close()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def wait(self, seconds: float = 30.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def log(self) -> str:
        return (self.root / "device.log").read_text()


def main() -> int:
    """The device."""
    parser = argparse.ArgumentParser()
    parser.add_argument("device_root", type=Path)
    parser.add_argument("tty_path")
    parser.add_argument("--clock-off", type=float, default=0.0)
    arguments, rest = parser.parse_known_args()
    daemon.logs.configure("provision", "json")
    options = daemon._parser().parse_args(["--tty", arguments.tty_path, *rest])
    try:
        system = system_of(arguments.device_root, arguments.clock_off)
        return asyncio.run(daemon.provision(system, options, enrol_here))
    except daemon.LocalFault as fault:
        sys.stderr.write(f"qflare-provisiond: {fault}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""`qflare-provisiond`: waits on serial lines for a technician until the device is enrolled."""

import argparse
import asyncio
import os
import signal
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edge_runtime.enrol import enrol
from edge_runtime.provision.desk import Desk
from edge_runtime.provision.enrolling import EnrolFunction
from edge_runtime.provision.memory import Memory
from edge_runtime.provision.rename import move_aside
from edge_runtime.provision.seeded import take_over
from edge_runtime.provision.settings import MARKER
from edge_runtime.provision.system import System
from edge_runtime.provision.terminal import Terminal
from edge_runtime.provision.ttys import serial_lines
from qflare import __version__
from qflare.enrolment import fingerprint_words
from qflare.faults import LocalFault
from qflare.host import logs
from qflare.host.files import write_atomic
from qflare.host.notify import notify

log = logs.get_logger(__name__)

SEEDS: Final = ("boot/firmware/qflare", "boot/qflare")
_SCREEN: Final = Path("dev/tty1")
_EXAMPLES: Final = """\
examples:
  qflare-provisiond                          wait on every serial line of this board
  qflare-provisiond --tty /dev/ttyAMA0       wait on this one
  qflare-provisiond --tty -                  serve whoever is logged in here over a serial line
  qflare-provisiond --from /boot/firmware/qflare    enrol by what was put on the card
  qflare-provisiond --again                  begin anew on a device that is enrolled already

exit status: 0 enrolled, 1 failed (a new start may help), 78 there is nothing to wait on
"""
_NOTHING_TO_DO: Final = 78
_FAREWELL: Final = 10.0
_GRACE: Final = 5.0  # seconds for a technician who is connected to finish, after enrolment


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the device is provisioned; return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logs.configure("provision", "auto")
    system = System(arguments.dir, arguments.state, arguments.data, arguments.root)
    try:
        return asyncio.run(provision(system, arguments, enrol))
    except LocalFault as fault:
        sys.stderr.write(f"qflare-provisiond: {fault}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"qflare-provisiond: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qflare-provisiond",
        description="Let a technician's `qflare provision` set this device up, over a serial line.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--tty", action="append", metavar="DEVICE", help="a serial line; - is this terminal")
    add("--baud", type=_baud, default=115_200, help="of the lines (default %(default)s)")
    add(
        "--from",
        dest="folder",
        type=Path,
        metavar="DIR",
        help="take ticket and settings there (default: from the card)",
    )
    add("--again", action="store_true", help="set the old identity aside and begin anew")
    add("--dir", type=Path, default=Path("/etc/qflare"), help="for the daemon's configuration")
    add("--state", type=Path, default=System.state, help="where this program remembers")
    add("--data", type=Path, default=System.data, help="where the daemon remembers")
    add("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    add("--version", action="version", version=f"qflare {__version__}")
    return parser


async def provision(system: System, arguments: argparse.Namespace, function: EnrolFunction) -> int:
    """Serve until the device is enrolled and nobody is at work; the exit status."""
    memory = Memory(system.state)
    if arguments.again:
        start_over(system, memory)
    desk = Desk(system, memory, function)
    if desk.closed:
        name = memory.state.name or (system.config / MARKER).read_text(errors="replace").strip()
        raise LocalFault(
            f"this device is {name[:40]} already; to give it a new identity, run "
            "`qflare-provisiond --again` on it"
        )
    here = arguments.tty == ["-"]
    given = [arguments.folder] if arguments.folder else [system.root / seed for seed in SEEDS]
    for folder in given:
        take_over(folder, desk, memory)
    words = " ".join(fingerprint_words(memory.key.public.fingerprint))
    show_words(system, words)
    beacon = f"QFLARE waits to be provisioned: run `qflare provision`. This device: {words}"
    paths = _lines(arguments.tty, system)
    if not paths and memory.ticket() is None:
        sys.stderr.write("qflare-provisiond: no serial line and no ticket here; name one: --tty\n")
        return _NOTHING_TO_DO
    terminals = [Terminal(path, arguments.baud, desk, memory, beacon) for path in paths]
    return await _until_done(desk, terminals, here)


async def _until_done(desk: Desk, terminals: Sequence[Terminal], here: bool) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    serving = [asyncio.create_task(terminal.serve()) for terminal in terminals]
    desk.enroller.start()
    notify("READY=1", "STATUS=waiting for a technician")
    grace = farewell = 0.0
    try:
        while not stopping.is_set():
            if any(task.done() for task in serving):
                await asyncio.gather(*(task for task in serving if task.done()))
            busy = any(terminal.connected for terminal in terminals)
            settled = all(terminal.settled for terminal in terminals)
            parted = all(terminal.parted for terminal in terminals)
            if desk.finished and desk.enrolled and not desk.closed:
                await desk.close_alone()  # the technician left when it had yet to be enrolled
            if desk.finished and (desk.enrolled or here):
                # What was said last has arrived, or the laptop has left without saying so.
                farewell = farewell + 0.2 if parted else 0.0
                if parted and (settled or farewell > _FAREWELL):
                    await asyncio.sleep(0.5)
                    return 0
            if desk.enrolled and not busy and not here:
                grace += 0.2
                if grace > _GRACE:
                    await desk.close_alone()
                    return 0
            else:
                grace = 0.0
            try:
                await asyncio.wait_for(stopping.wait(), 0.2)
            except TimeoutError:
                continue
        return 0
    finally:
        notify("STOPPING=1")
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await desk.enroller.stop()


def start_over(system: System, memory: Memory) -> None:
    """Set the identity aside, whole, and forget what was done."""
    moved = move_aside(system.config)
    memory.start_over()
    log.info("begins anew", old=moved)


def show_words(system: System, words: str) -> None:
    """Show the session key's words where only somebody at the device sees them."""
    write_atomic(system.state / "words", f"{words}\n".encode(), 0o644)
    log.info("session key", words=words)
    try:
        descriptor = os.open(system.root / _SCREEN, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return  # no screen
    try:
        os.write(descriptor, f"\r\nQFLARE provisioning, this device: {words}\r\n".encode())
    except OSError:
        log.debug("no words on the screen")
    finally:
        os.close(descriptor)


def _lines(given: list[str] | None, system: System) -> list[Path]:
    if not given:
        return serial_lines(system.root)
    if given == ["-"]:
        try:
            return [Path(os.ttyname(0))]
        except OSError:
            raise LocalFault("--tty -: this is no terminal; name the serial line's") from None
    return [Path(name) for name in given]


def _baud(text: str) -> int:
    if not text.isdecimal() or not hasattr(termios, f"B{int(text)}"):
        raise argparse.ArgumentTypeError("no speed of a serial line, as 115200 is")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

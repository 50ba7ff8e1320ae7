"""What a technician meets in the field, each with a message that says what to do next."""

import asyncio
import grp
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.provision.desk import Desk
from edge_runtime.provision.dialogue import Clock, Failed, Trouble
from edge_runtime.provision.memory import Memory
from edge_runtime.provision.ports import SerialLine
from edge_runtime.provision.problems import Code, Problem
from edge_runtime.provision.tickets import Tickets
from tests.enrol_kit import COMMAND
from tests.provision_kit import Cable, Device, make_root, make_ticket, system_of

NOBODY = 65534


@pytest.fixture
def cable() -> Iterator[Cable]:
    one = Cable(speeds=True)
    yield one
    one.close()


@pytest.fixture
def device(tmp_path: Path, cable: Cable) -> Iterator[Device]:
    one = Device(make_root(tmp_path / "board"), cable.device)
    yield one
    one.kill()


def command(folder: Path, cable: Cable, *words: str) -> tuple[int, dict[str, str], str]:
    """The command as a process: exit code, what it printed, and what the technician read."""
    make_ticket(folder / "tickets/a.ticket")
    given = ["--port", cable.laptop, "--ticket", str(folder / "tickets"), "--yes", "--json"]
    given += ["--jobs", str(folder / "jobs"), "--no-training", *words]
    done = subprocess.run(
        [*COMMAND, "provision", "serial", *given], capture_output=True, text=True, timeout=100
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.mark.slow
def test_the_speed_is_found_by_itself(tmp_path: Path, cable: Cable, device: Device) -> None:
    device.options = ("--baud", "57600")
    device.start()
    code, record, said = command(tmp_path, cable)
    assert (code, record["result"]) == (0, "done"), said
    assert f"{cable.laptop}, 57600 baud\n" in said


@pytest.mark.slow
def test_a_wrong_speed_is_told(tmp_path: Path, cable: Cable, device: Device) -> None:
    device.start()
    code, record, said = command(tmp_path, cable, "--baud", "9600")
    assert (code, record["code"]) == (1, "garbage")
    last = said.splitlines()[-1]
    assert last.startswith("qflare: only garbage comes over ")
    assert "--baud" in last
    code, record, said = command(tmp_path, cable, "--baud=-1")
    assert (code, record["code"]) == (1, "speed"), said


@pytest.mark.slow
def test_nothing_answers(tmp_path: Path, cable: Cable) -> None:
    code, record, said = command(tmp_path, cable, "--baud", "115200")
    assert (code, record["code"]) == (1, "no_answer")
    assert "3.3 V" in said.splitlines()[-1]


def test_another_program_has_the_port(tmp_path: Path, cable: Cable) -> None:
    other = SerialLine(cable.laptop, 115_200)
    try:
        code, record, said = command(tmp_path, cable)
    finally:
        other.close()
    assert (code, record["code"]) == (1, "port_busy")
    assert f"{cable.laptop}: another program has it open; close" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to become somebody else")
def test_a_port_that_we_may_not_open_names_the_group() -> None:
    master, slave = os.openpty()
    path = os.ttyname(slave)
    os.chown(path, 0, grp.getgrnam("dialout").gr_gid)
    Path(path).chmod(0o660)
    program = f"""
import grp, os  # read before we are somebody who may not
from edge_runtime.provision.ports import SerialLine
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
try:
    SerialLine({path!r}, 115200)
except Exception as error:
    print(error.code, error)
"""
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    os.close(slave)
    os.close(master)
    assert said.startswith(f"no_permission {path}: no right to open it; run `sudo usermod -aG ")
    assert " dialout $USER`" in said


def test_a_port_that_is_not_there_or_no_port(tmp_path: Path, cable: Cable) -> None:
    code, record, said = command(tmp_path, cable, "--port", "/dev/ttyUSB99")
    assert (code, record["code"]) == (1, "port_gone")
    assert "plug the adapter in" in said
    (tmp_path / "file").touch()
    code, record, said = command(tmp_path, cable, "--port", str(tmp_path / "file"))
    assert (code, record["code"]) == (1, "no_serial_port")
    assert f"{tmp_path}/file is no serial port" in said


def judged(age: float, life: float) -> Problem:
    with tempfile.TemporaryDirectory() as folder:
        ticket = make_ticket(Path(folder, "a.ticket"), age=age, life=life)
        with pytest.raises(Problem) as caught:
            Tickets(ticket, None).take("rpi4", "s1", time.time())
        assert ticket.exists()  # not taken
        return caught.value


def test_the_clock_of_the_laptop_and_the_end_of_a_ticket_are_told_apart() -> None:
    late = judged(age=400 * 86_400, life=86_400)
    assert late.code is Code.EXPIRED_TICKET
    assert "a.ticket ended on 20" in str(late)
    assert " UTC; take a fresh ticket" in str(late)
    early = judged(age=-3 * 365 * 86_400, life=86_400)
    assert early.code is Code.LAPTOP_CLOCK
    assert "set it (sudo timedatectl" in str(early)


@pytest.mark.slow
def test_a_wrong_clock_of_the_laptop_does_not_get_onto_the_board(
    tmp_path: Path, cable: Cable, device: Device
) -> None:
    device.options = ("--clock-off=-200000000",)
    device.start()
    make_ticket(tmp_path / "other/a.ticket", age=-3 * 365 * 86_400)
    code, record, said = command(tmp_path, cable, "--ticket", str(tmp_path / "other"))
    assert (code, record["code"]) == (1, "laptop_clock"), said
    assert not (device.root / "clock_was_set").exists()


def test_a_clock_that_cannot_be_set() -> None:
    def refuse(seconds: float) -> None:
        raise PermissionError(1, "Operation not permitted")

    with tempfile.TemporaryDirectory() as folder:
        system = system_of(make_root(Path(folder)), clock_off=-200_000_000)
        object.__setattr__(system, "set_clock", refuse)
        desk = Desk(system, Memory(system.state), None)  # type: ignore[arg-type]
        answer = asyncio.run(desk.handle(Clock(time.time()), print))
    assert isinstance(answer, Failed)
    assert (answer.trouble, answer.text) == (
        Trouble.CLOCK, "it is off by 6 years, and: Operation not permitted"
    )  # fmt: skip

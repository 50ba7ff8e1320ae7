"""A stock console on the line: a real shell on a pseudo-terminal that starts the device."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.provision.console import Account, Console, readable
from edge_runtime.provision.jobs import Jobs
from edge_runtime.provision.ports import SerialLine
from edge_runtime.provision.problems import Code, Problem
from edge_runtime.provision.screen import PlainScreen
from edge_runtime.provision.technician import Plan, Technician
from edge_runtime.provision.tickets import Tickets
from tests.provision_kit import Cable, make_root, make_ticket

_LOGIN = r"""
stty sane
while :; do
  printf '\nboard login: '; read -r name
  [ -n "$name" ] || continue
  printf 'Password: '; read -r word
  [ "$name:$word" = "tech:let me in" ] && break
  printf '\nLogin incorrect\n'
done
exec bash --norc --noprofile -i
"""


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Cable]:
    """A login prompt, and behind it a shell that finds qflare-provisiond if there is one."""
    cable = Cable(noise=0.02)
    program = tmp_path / "bin"
    program.mkdir()
    for name, body in (("id", "echo 0"), ("systemctl", "exit 0")):
        (program / name).write_text(f"#!/bin/sh\n{body}\n")
        (program / name).chmod(0o755)
    tty = os.open(cable.device, os.O_RDWR | os.O_NOCTTY)
    environment = {"PATH": f"{program}:/usr/bin:/bin", "PS1": "\\u@board:~# ", "TERM": "dumb"}
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-c", _LOGIN],
        stdin=tty, stdout=tty, stderr=tty, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(tty)
    yield cable
    shell.kill()
    shell.wait()
    cable.close()


def install(folder: Path, root: Path) -> None:
    here = Path(__file__).parents[2]
    program = folder / "bin/qflare-provisiond"
    program.write_text(
        f'#!/bin/sh\ncd {here}\nexec {sys.executable} -m tests.provision_kit {root} "$(tty)"\n'
    )
    program.chmod(0o755)


def test_a_console_is_logged_in_to_and_the_device_started(tmp_path: Path, console: Cable) -> None:
    root = make_root(tmp_path / "board")
    install(tmp_path, root)
    make_ticket(tmp_path / "t/a.ticket")
    plan = Plan(
        port=console.laptop,
        tickets=Tickets(tmp_path / "t", None),
        bauds=(115_200,),
        training=False,
        account=Account("tech", lambda: "let me in"),
    )
    record = Technician(plan, Jobs(tmp_path / "jobs"), PlainScreen(sys.stderr, yes=True)).run()
    assert (record.result, record.name) == ("done", "rpi4-abcdef01")
    assert "let me in" not in next((tmp_path / "jobs").glob("*.json")).read_text()


def test_a_wrong_password_and_a_missing_install_are_said(console: Cable) -> None:
    line = SerialLine(console.laptop, 115_200)
    wrong = Console(line, wait=3.0)
    wrong.look()
    with pytest.raises(Problem) as caught:
        wrong.log_in(Account("tech", lambda: "wrong"))
    assert caught.value.code is Code.LOGIN
    right = Account("tech", lambda: "let me in")
    shell = Console(line, wait=3.0)
    shell.look()
    shell.log_in(right)
    with pytest.raises(Problem) as caught:
        shell.start_provisiond(right)
    assert caught.value.code is Code.NOT_INSTALLED
    line.close()


def test_what_a_wrong_speed_brings_is_not_readable() -> None:
    assert readable(b"\r\nDebian GNU/Linux 12 board ttyAMA0\r\n\r\nboard login: ")
    assert not readable(bytes(range(128, 256)))
    assert not readable(b"\r\n\r\n")

"""The console that a stock system has on its serial line: the real agetty, login and bash.

They run in mounts and processes of their own, with accounts of their own.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.provision.console import Account
from edge_runtime.provision.jobs import Jobs, Record
from edge_runtime.provision.problems import Code, Problem
from edge_runtime.provision.screen import PlainScreen
from edge_runtime.provision.technician import Plan, Technician
from edge_runtime.provision.tickets import Tickets
from tests.provision_kit import Cable, make_root, make_ticket

PASSWORD = "let me in"
TOOLS = ("agetty", "login", "unshare", "openssl", "setsid")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
        reason="a real login needs root, agetty, login, unshare and openssl",
    ),
]


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Cable]:
    """A cable to a login prompt; programs in <tmp_path>/bin are found there."""
    cable = Cable()
    programs = tmp_path / "bin"
    programs.mkdir()
    crypted = subprocess.check_output(["openssl", "passwd", "-6", PASSWORD], text=True).strip()
    accounts = {"root": 0, "tech": 1000}
    homes = "".join(f"{n}:x:{u}:{u}::{tmp_path}:/bin/bash\n" for n, u in accounts.items())
    secrets = "".join(f"{name}:{crypted}:19000:0:99999:7:::\n" for name in accounts)
    for name, content in (
        ("passwd", homes), ("shadow", secrets), ("sudoers", "tech ALL=(ALL) ALL\n")
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o644 if name == "passwd" else 0o440)
    script = f"""
set -e
mount --make-rprivate /
mount --bind {tmp_path}/passwd /etc/passwd
mount --bind {tmp_path}/shadow /etc/shadow
[ ! -e /etc/sudoers ] || mount --bind {tmp_path}/sudoers /etc/sudoers
for place in /var/log /run; do mount -t tmpfs tmpfs $place; done
mount --bind {programs} /usr/local/bin
while :; do setsid -w agetty -L 115200 {cable.device.removeprefix("/dev/")} vt220 || sleep 1; done
"""
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    system = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    yield cable
    system.kill()
    system.wait()
    cable.close()


def install(folder: Path) -> Path:
    """A qflare-provisiond that is found at the console; the root that it works on."""
    here = Path(__file__).parents[2]
    root = make_root(folder / "board")
    program = folder / "bin/qflare-provisiond"
    program.write_text(
        f'#!/bin/sh\ncd {here}\n[ "$*" = "--tty -" ] || exit 9\n'
        f"exec {sys.executable} -m tests.provision_kit {root} -\n"
    )
    program.chmod(0o755)
    return root


def provision(folder: Path, cable: Cable, password: str, user: str = "root") -> Record:
    make_ticket(folder / "t/a.ticket")
    plan = Plan(
        port=cable.laptop,
        tickets=Tickets(folder / "t", None),
        bauds=(115_200,),
        training=False,
        account=Account(user, lambda: password),
    )
    return Technician(plan, Jobs(folder / "jobs"), PlainScreen(sys.stderr, yes=True)).run()


@pytest.mark.parametrize("user", ["root", "tech"])
def test_from_a_login_prompt_to_a_device(
    tmp_path: Path, console: Cable, capsys: pytest.CaptureFixture[str], user: str
) -> None:
    if user != "root" and shutil.which("sudo") is None:
        pytest.skip("sudo isn't installed")
    root = install(tmp_path)
    record = provision(tmp_path, console, PASSWORD, user)
    assert (record.result, record.name) == ("done", "rpi4-abcdef01")
    assert (root / "etc/qflare/enrolled").exists()
    assert PASSWORD not in capsys.readouterr().err

    # The console is a console again, for whoever comes next.
    tty = os.open(console.laptop, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    said, until = b"", time.monotonic() + 10
    os.write(tty, b"stty echo; echo still $((6 * 7))\r")
    while b"still 42" not in said and time.monotonic() < until:
        try:
            said += os.read(tty, 4096)
        except BlockingIOError:
            time.sleep(0.05)
    os.close(tty)
    assert b"still 42" in said

    # And whoever provisions again hears why not; we are still logged in.
    with pytest.raises(Problem) as caught:
        provision(tmp_path, console, PASSWORD, user)
    assert caught.value.code is Code.ALREADY
    assert "this device is rpi4-abcdef01 already" in str(caught.value)


def test_a_wrong_password_and_then_nothing_installed(tmp_path: Path, console: Cable) -> None:
    with pytest.raises(Problem) as caught:
        provision(tmp_path, console, "wrong")
    assert caught.value.code is Code.LOGIN
    assert "--password-file" in str(caught.value)
    with pytest.raises(Problem) as caught:
        provision(tmp_path, console, PASSWORD)
    assert caught.value.code is Code.NOT_INSTALLED

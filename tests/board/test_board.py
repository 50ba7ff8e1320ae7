"""QFLARE on an emulated arm64 board: systemd, the unit's sandbox, real rounds, and power cuts.

One board goes through everything in turn, as booting it takes longer than what is tried on it. What
emulation can't carry: its times say nothing about a real board's; it has no GPU, no thermal zones,
no throttling and no battery, no SD card that wears, no flash that tears a page, no firmware that
reads config.txt, no watchdog in hardware, no clock that stops with the power, and its one UART has
no wires that pick up noise.
"""

import random
import time
from pathlib import Path

import pytest

from tests.board import commands, image, service
from tests.board.fleet import new_ticket, running, verify_counted_once
from tests.board.machine import Board, powered
from tests.board.progress import say
from tests.board.technician import Technician
from tests.joined_fleet import Fleet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.board,
    pytest.mark.skipif(bool(image.missing()), reason=image.missing() or "can be made"),
    pytest.mark.timeout(2400),
]
INSTALL_MAX_MIB = 120
CUTS = 3
MODES = """\
755 root /etc/qflare
600 root /etc/qflare/broker.password
644 root /etc/qflare/device.der
600 root /etc/qflare/device.seed
644 root /etc/qflare/edge.toml
644 root /etc/qflare/enrolled
644 root /etc/qflare/enrolled.json
644 root /etc/qflare/owner.key"""


def test_a_boards_life(tmp_path: Path) -> None:
    made = image.build(tmp_path / "image")
    assert made.mebibytes <= INSTALL_MAX_MIB
    chance = random.Random(seed := time.time_ns() % 2**32)
    say(f"the disk is made; power cuts by seed {seed}")
    with running(tmp_path / "fleet") as fleet:
        board = Board(made, tmp_path / "board", _card(tmp_path / "card", fleet))
        new_ticket(fleet, tmp_path / "laptop-tickets")
        technician = Technician(tmp_path / "laptop", tmp_path / "laptop-tickets", board.line)
        with powered(board):
            _is_provisioned(board, technician, chance)
            _first_day(board, fleet)
            _power_is_cut(board, fleet, chance)
            _after_all_that(board, fleet)
        say(f"{verify_counted_once(fleet)} updates counted, none twice")


def _card(folder: Path, fleet: Fleet) -> Path:
    """What is on the boot partition: a Raspberry Pi's files, and this board's samples."""
    folder.mkdir()
    (folder / "config.txt").write_text(commands.CONFIG_TXT)
    (folder / "cmdline.txt").write_text(commands.CMDLINE_TXT)
    fleet.shares[1].write(folder / "samples.npz")
    return folder


def _is_provisioned(board: Board, technician: Technician, chance: random.Random) -> None:
    """Over the serial line, by one command that is left running while the power goes."""
    board.run("install -m 644 /boot/firmware/samples.npz /srv/samples.npz && sync")
    say("up for the first time")
    technician.start()
    try:
        technician.reached("ticket")
        time.sleep(chance.uniform(0, 6))
        _cut(board)
        record = technician.done()
    finally:
        technician.leave()
    say(f"what the technician saw\n{technician.shown()}")
    assert record["result"] == "done"
    assert record["board"] == "generic-arm64"
    assert all(text.startswith("ok: ") for text in record["test"].values()), record
    assert board.run("stat -c '%a %U %n' /etc/qflare /etc/qflare/*") == MODES
    left = board.run("ls -A /var/lib/qflare-provision").split()
    assert "ticket" not in left
    assert board.run("stat -c %a /var/lib/qflare-provision") == "700"
    board.until("systemctl is-active qflare-provisiond", "^inactive")
    board.until("systemctl is-active qflare-edge", "^active")


def _first_day(board: Board, fleet: Fleet) -> None:
    service.trains(board, fleet, "from its first start on")
    service.is_sandboxed(board)
    commands.doctor_sees_all(board)
    commands.board_files_come_and_go(board)
    service.survives_a_full_memory(board, fleet)
    service.is_restarted_when_it_hangs(board)
    service.trains(board, fleet, "after the watchdog's restart")
    commands.trains_when_it_may(board, fleet)


def _power_is_cut(board: Board, fleet: Fleet, chance: random.Random) -> None:
    """In the midst of whatever it does; nobody is at the console when the power is back."""
    for i in range(1, CUTS + 1):
        time.sleep(chance.uniform(0, 12))
        _cut(board)
        service.trains(board, fleet, f"after power cut {i}, by itself")


def _cut(board: Board) -> None:
    board.cut_power()
    say("the power is cut, and back")
    board.power_on()


def _after_all_that(board: Board, fleet: Fleet) -> None:
    commands.board_is_as_its_profile_says(board)
    service.stops_as_asked(board)
    service.says_no_secret(board)

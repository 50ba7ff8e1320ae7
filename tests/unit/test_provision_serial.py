"""A laptop and a device, joined by a bad cable: real processes on pseudo-terminals."""

import io
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.provision import dialogue
from edge_runtime.provision.frames import Decoder
from edge_runtime.provision.jobs import Jobs
from edge_runtime.provision.problems import Code, Problem
from edge_runtime.provision.screen import PlainScreen
from edge_runtime.provision.technician import Plan, Technician
from edge_runtime.provision.tickets import Tickets
from tests.provision_kit import SERIAL, Cable, Device, make_root, make_ticket

PASSPHRASE = "correct horse battery"
NETWORK = dialogue.Network(dialogue.Wifi("site 7", PASSPHRASE, "DE", False), "", "", (), True)
Make = Callable[..., "Bench"]


class Bench:
    """A cable, a device at its end, a laptop's folders."""

    def __init__(self, folder: Path, cable: Cable, *options: str) -> None:
        self.folder, self.cable = folder, cable
        self.root = make_root(folder / "board")
        self.device = Device(self.root, cable.device, options)
        self.tickets = folder / "tickets"
        self.jobs = Jobs(folder / "jobs")
        self.shown = io.StringIO()

    def plan(self, **changes: Any) -> Plan:
        values: dict[str, Any] = {
            "port": self.cable.laptop,
            "tickets": Tickets(self.tickets, None),
            "bauds": (115_200,),
            "network": NETWORK,
            "settings": '[data]\nkind = "npz"\npath = "/data/x.npz"\n',
            "training": False,
            "patience": 4.0,
            "boot": 40.0,
        }
        return Plan(**{**values, **changes})

    def technician(self, yes: bool = True, **changes: Any) -> Technician:
        return Technician(self.plan(**changes), self.jobs, PlainScreen(self.shown, yes))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []

    def make(*options: str, **cable: Any) -> Bench:
        one = Bench(tmp_path, Cable(**cable), *options)
        make_ticket(one.tickets / "a.ticket")
        make_ticket(one.tickets / "b.ticket")
        made.append(one)
        return one

    yield make
    for one in made:
        one.device.kill()
        one.cable.close()


def verify_provisioned(one: Bench) -> None:
    """All that a finished job leaves, and one ticket spent."""
    etc = one.root / "etc/qflare"
    assert (etc / "enrolled").read_text() == "rpi4-abcdef01\n"
    edge = (etc / "edge.toml").read_text()
    assert '[data]\nkind = "npz"\npath = "/data/x.npz"' in edge
    assert 'key = "device.seed"' in edge
    keyfile = one.root / "etc/NetworkManager/system-connections/qflare.nmconnection"
    assert f"psk={PASSPHRASE}" in keyfile.read_text()
    assert stat.S_IMODE(keyfile.stat().st_mode) == 0o600
    assert not (one.root / "var/lib/qflare-provision/ticket").exists()
    assert [path.name for path in one.tickets.glob("*.ticket")] == ["b.ticket"]
    assert [p.name for p in (one.tickets / "used").iterdir()] == [f"{SERIAL}--a.ticket"]
    ((_, record),) = one.jobs.every()
    assert (record.result, record.name, record.board) == ("done", "rpi4-abcdef01", "rpi4")
    assert len(set((one.root / "asked").read_text().split())) == 1
    assert PASSPHRASE not in next(one.jobs.folder.glob("*.json")).read_text()


def test_a_board_is_provisioned_and_the_wire_shows_no_secret(bench: Make) -> None:
    one = bench()
    one.device.start()
    technician = one.technician(labels=one.folder / "labels")
    record = technician.run()
    assert one.device.wait() == 0, one.device.log()
    verify_provisioned(one)
    assert record.compared
    assert set(record.test) >= {"processor", "memory", "storage", "clock", "line"}
    assert all(text.startswith("ok: ") for text in record.test.values()), record.test
    labels = {path.suffix for path in (one.folder / "labels").iterdir()}
    assert labels == {".txt", ".svg", ".png"}

    plain = b"".join(frame.payload for frame in Decoder().feed(bytes(one.cable.seen)))
    assert b"rpi4" in plain  # the hello, which is no secret
    assert PASSPHRASE.encode() not in plain
    assert b"psk" not in one.device.log().encode()
    assert PASSPHRASE not in one.device.log()
    assert "systemctl" not in (one.root / "commands").read_text()  # no systemd in this tree


@pytest.mark.slow
def test_over_a_line_that_loses_turns_and_doubles_bytes(bench: Make) -> None:
    one = bench(loss=0.0004, flip=0.0004, double=0.0004, noise=0.05, seed=7)
    one.device.start()
    record = one.technician().run()
    assert record.result == "done"
    assert one.device.wait() == 0
    verify_provisioned(one)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_cable_cut_and_mended_anywhere(bench: Make, seed: int) -> None:
    one = bench()
    one.device.start()
    one.cable.cut_after = 3000 + 9000 * seed

    def mend_soon() -> None:
        threading.Timer(4.5, one.cable.mend).start()

    one.cable.on_cut = mend_soon
    assert one.technician(patience=2.0).run().result == "done"
    assert "beginning again where it was" in one.shown.getvalue()
    assert one.device.wait() == 0
    verify_provisioned(one)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_device_killed_anywhere_and_started_again(bench: Make, seed: int) -> None:
    one = bench()
    one.device.start()
    one.cable.cut_after = 5000 + 9000 * seed

    def kill_and_start() -> None:
        one.device.kill()
        one.device.start()
        one.cable.mend()

    one.cable.on_cut = kill_and_start
    assert one.technician(patience=3.0).run().result == "done"
    assert one.device.wait() == 0
    verify_provisioned(one)


@pytest.mark.slow
def test_a_board_that_tells_how_it_boots_is_waited_for(bench: Make) -> None:
    one = bench()
    one.device.start()
    one.cable.cut_after = 9000

    def boot() -> None:
        one.device.kill()
        one.cable.mend()
        console = os.open(one.cable.device, os.O_RDWR | os.O_NOCTTY)
        for _ in range(40):
            os.write(console, b"[    1.234567] usb 1-1: new high-speed USB device\r\n")
            time.sleep(0.1)
        os.close(console)
        one.device.start()

    one.cable.on_cut = lambda: threading.Thread(target=boot).start()
    assert one.technician(patience=2.0, boot=1.0).run().result == "done"
    assert one.device.wait() == 0
    verify_provisioned(one)


def test_without_network_the_board_enrols_by_itself_later(bench: Make) -> None:
    one = bench()
    (one.root / "run/systemd/system").mkdir(parents=True)
    (one.root / "enrol.json").write_text('{"unreachable": true}')
    one.device.start()
    record = one.technician(wait=1).run()
    assert (record.result, record.name) == ("waiting", "")
    assert "will enrol by itself" in one.shown.getvalue()
    assert one.device.process is not None
    assert one.device.process.poll() is None
    one.device.kill()
    (one.root / "enrol.json").unlink()
    one.device.start()  # the next boot
    until = time.monotonic() + 20
    while not (one.root / "etc/qflare/enrolled").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert (one.root / "etc/qflare/enrolled").exists(), one.device.log()
    assert one.device.wait() == 0
    assert "start --no-block qflare-edge" in (one.root / "commands").read_text()


def slow_to_start(one: Bench, seconds: float) -> None:
    """Give the board a systemd that takes so long for each command."""
    (one.root / "run/systemd/system").mkdir(parents=True)
    (one.root / "slow").write_text(str(seconds))


def test_a_board_that_is_slow_to_start_its_daemon_stays_on_the_line(bench: Make) -> None:
    one = bench()
    slow_to_start(one, 3.0)
    one.device.start()
    assert one.technician(patience=4.0).run().result == "done"
    assert "beginning again" not in one.shown.getvalue()
    assert one.device.wait() == 0


def test_a_laptop_that_lost_the_last_answer_comes_back_and_hears_it(bench: Make) -> None:
    one = bench()
    slow_to_start(one, 1.0)

    class Unlucky(Technician):
        def _ask(self, talk: Any, step: Any, request: Any) -> Any:
            if step == "finish" and "beginning again" not in one.shown.getvalue():
                threading.Timer(0.5, setattr, (one.cable, "cut", True)).start()
                threading.Timer(6.0, one.cable.mend).start()
            return super()._ask(talk, step, request)

    one.device.start()
    plan = one.plan(patience=3.0)
    assert Unlucky(plan, one.jobs, PlainScreen(one.shown, True)).run().result == "done"
    assert one.shown.getvalue().count("beginning again") >= 1
    assert one.device.wait() == 0
    verify_provisioned(one)


class Leaves(PlainScreen):
    """A technician who shuts the laptop as soon as the board is enrolled."""

    def busy(self, what: str, text: str) -> None:
        if what == "test":
            raise KeyboardInterrupt
        super().busy(what, text)


def test_a_board_cut_after_its_enrolment_still_waits_for_the_rest(bench: Make) -> None:
    one = bench()
    one.device.start()
    with pytest.raises(KeyboardInterrupt):
        Technician(one.plan(), one.jobs, Leaves(one.shown, True)).run()
    one.device.kill()
    assert (one.root / "etc/qflare/edge.toml").exists()
    assert not (one.root / "etc/qflare/enrolled").exists()  # the unit would not start any more
    one.device.start()
    assert one.technician().run().result == "done"
    assert one.device.wait() == 0
    verify_provisioned(one)


def fails(one: Bench, **changes: Any) -> Problem:
    technician = one.technician(**changes)
    with pytest.raises(Problem) as caught:
        technician.run()
    return caught.value


def test_a_used_ticket_is_told_and_never_taken_again(bench: Make) -> None:
    one = bench()
    (one.root / "enrol.json").write_text('{"refused": "used"}')
    one.device.start()
    assert fails(one).code is Code.USED_TICKET
    (one.root / "enrol.json").unlink()
    assert one.technician().run().result == "done"
    assert sorted(p.name for p in (one.tickets / "used").iterdir()) == [
        f"{SERIAL}--b.ticket",
        f"spoilt--{SERIAL}--a.ticket",
    ]


def test_wrong_board_words_and_tickets_before_anything_is_given_away(bench: Make) -> None:
    one = bench()
    one.device.start()
    assert fails(one, board="rpi5").code is Code.WRONG_BOARD
    assert fails(one, yes=False).code is Code.WRONG_WORDS
    empty = one.folder / "none"
    empty.mkdir()
    assert fails(one, tickets=Tickets(empty, None)).code is Code.NO_TICKET
    other = make_ticket(one.folder / "other/x.ticket", board="rpi5")
    assert fails(one, tickets=Tickets(other, None)).code is Code.WRONG_BOARD
    late = make_ticket(one.folder / "late/x.ticket", life=10, age=100)
    assert fails(one, tickets=Tickets(late, None)).code is Code.EXPIRED_TICKET
    torn = one.folder / "torn.ticket"
    torn.write_bytes(late.read_bytes()[:-7])
    assert fails(one, tickets=Tickets(torn, None)).code is Code.BAD_TICKET
    assert len(list(one.tickets.glob("*.ticket"))) == 2
    assert not (one.root / "var/lib/qflare-provision/ticket").exists()


def test_a_clock_years_off_is_set_before_the_ticket_is_judged(bench: Make) -> None:
    one = bench("--clock-off=-200000000")
    one.device.start()
    record = one.technician().run()
    assert record.steps["clock"] == "was off by 6 years, set"
    assert abs(int((one.root / "clock_was_set").read_text())) < 5
    assert "off by 6 years" in one.shown.getvalue()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", Code.NO_ANSWER),
        (bytes(range(128, 256)) * 3, Code.GARBAGE),
        (b"U-Boot 2024.01\r\nHit any key to stop autoboot\r\n", Code.NO_PROVISIOND),
    ],
)
def test_what_is_wrong_with_a_line_is_said(
    tmp_path: Path, said: bytes, code: Code, bench: Make
) -> None:
    one = bench()
    other = os.open(one.cable.device, os.O_RDWR | os.O_NOCTTY)
    done = threading.Event()

    def speak() -> None:
        while not done.wait(0.2):
            os.write(other, said)

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        problem = fails(one, boot=0.0)
    finally:
        done.set()
        thread.join()
        os.close(other)
    assert problem.code is code
    assert one.cable.laptop in str(problem)


def test_ports_that_cannot_be_opened(bench: Make, tmp_path: Path) -> None:
    one = bench()
    assert fails(one, port=str(tmp_path / "ttyUSB9")).code is Code.PORT_GONE


@pytest.mark.slow
def test_an_enrolled_board_is_not_provisioned_twice_but_again_when_asked(bench: Make) -> None:
    one = bench()
    one.device.start()
    one.technician().run()
    assert one.device.wait() == 0
    one.device.start()
    assert one.device.wait() == 1
    assert "is rpi4-abcdef01 already" in one.device.log()
    one.device.options = ("--again",)
    one.device.start()
    assert one.technician().run().result == "done"
    (aside,) = (one.root / "etc").glob("qflare.before-*")
    assert (aside / "enrolled").exists()
    old, new = ((d / "device.seed").read_bytes() for d in (aside, one.root / "etc/qflare"))
    assert old != new
    assert re.search(r"ok +enrol +enrolled as rpi4-abcdef01", one.shown.getvalue())

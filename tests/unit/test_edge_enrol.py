"""The device's files: cut anywhere and run again, it ends as the same device."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import enrol as enrol_module
from edge_runtime import enrol_files
from edge_runtime.enrol import (
    Enrolled,
    EnrolmentRefused,
    NoAnswer,
    edge_tables,
    enrol,
    identify,
)
from edge_runtime.enrol_exchange import REMEDIES
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import EnrolGrant, Refusal, Ticket
from qflare.faults import LocalFault, PeerFault
from tests.unit.enrol_desk import OWNER, WORLD, Desk, opened

SERIAL = "10000000abcdef01"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "co").mkdir()
    yield from opened(tmp_path / "co")


@pytest.fixture
def joined(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The link replaced by a call: what the device publishes, the office answers."""

    class Runner:
        def __init__(self, ticket: Ticket, exchange: Any, ca: Path | None, report: Any) -> None:
            self.ticket, self.exchange = ticket, exchange

        async def run(self, silence_s: float, approval_s: float) -> EnrolGrant:
            waiting = self.exchange.connected(0.0)
            while self.exchange.grant is None:
                (payload,) = waiting
                reply = desk.say(self.ticket.token, payload)
                assert reply is not None
                waiting = self.exchange.receive(reply.payload, 1.0)
            return self.exchange.grant

    monkeypatch.setattr(enrol_module, "_Runner", Runner)
    monkeypatch.setattr(enrol_module.time, "time", lambda: desk.now)
    return desk


def join(ticket: Ticket | bytes, directory: Path, board: str = "rpi4", serial: str = SERIAL) -> Any:
    data = ticket if isinstance(ticket, bytes) else ticket.to_bytes()
    lines: list[str] = []
    enrolled = asyncio.run(enrol(data, directory, board, serial, lines.append))
    return enrolled, lines


class Cut(Exception):
    """The power went."""


def test_cut_before_and_after_every_write(
    joined: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = enrol_files.write_atomic
    cuts = 0
    for cut in range(1, 100):
        here = tmp_path / f"d{cut}"
        ticket = joined.ticket(cut, name=f"dev-{cut}")
        left = (cut + 1) // 2
        seeds: set[bytes] = set()

        def write(path: Path, data: bytes, mode: int = 0o600, cut: int = cut) -> None:
            nonlocal left
            left -= 1
            if left == 0 and cut % 2:
                raise Cut
            real(path, data, mode)
            if left == 0:
                raise Cut

        monkeypatch.setattr(enrol_files, "write_atomic", write)
        try:
            enrolled, _ = join(ticket, here)
            break  # it has no more writes than this
        except Cut:
            cuts += 1
        seed = here / "device.seed"
        if seed.exists():
            seeds.add(seed.read_bytes())
        monkeypatch.setattr(enrol_files, "write_atomic", real)
        enrolled, _ = join(ticket, here)
        seeds.add(seed.read_bytes())
        assert len(seeds) == 1
        assert enrolled.name == f"dev-{cut}"
        again, _ = join(ticket, here)
        assert again == enrolled
        assert complete(here, enrolled)
    assert cuts == 12  # before and after each of: owner, seed, request, certificate, password, end
    claims = [entry.claim for entry in joined.register.entries()]
    assert all(claims)


def complete(here: Path, enrolled: Enrolled) -> bool:
    key = SigningKey.from_seed(DEFAULT, (here / "device.seed").read_bytes())
    assert key.verify_key.raw in (here / "device.der").read_bytes()
    assert key.verify_key.fingerprint == enrolled.fingerprint
    assert (here / "owner.key").read_bytes() == OWNER
    private = {"device.seed", "broker.password"}
    assert all((here / name).stat().st_mode & 0o777 == 0o600 for name in private)
    assert not (here / "enrolling").exists()
    return True


def test_files_say_nothing_secret_to_others(joined: Desk, tmp_path: Path) -> None:
    ticket = joined.ticket()
    enrolled, lines = join(ticket, tmp_path / "d")
    secrets = [
        ticket.terms.secret.hex(),
        ticket.terms.password,
        (tmp_path / "d" / "broker.password").read_text(),
    ]
    marker = (tmp_path / "d" / "enrolled.json").read_text()
    assert not any(secret in text for secret in secrets for text in (marker, *lines))
    assert any(enrolled.words in line for line in lines)
    assert enrolled.name == "rpi4-abcdef01"
    assert edge_tables(enrolled) == {
        "device": {
            "fleet": "demo",
            "name": "rpi4-abcdef01",
            "key": "device.seed",
            "certificate": "device.der",
            "owner_key": "owner.key",
        },
        "broker": {"url": "mqtts://broker:8883", "password_file": "broker.password"},
    }


def test_another_owner_another_ticket_another_board(joined: Desk, tmp_path: Path) -> None:
    here = tmp_path / "d"
    bound = joined.ticket(1, board="rpi5")
    with pytest.raises(EnrolmentRefused) as caught:
        join(bound, here)
    assert caught.value.reason is Refusal.WRONG_BOARD
    assert not (here / "device.seed").exists()  # nothing was said to anybody
    ticket = joined.ticket(2, serial=SERIAL)
    (here / "owner.key").write_bytes(bytes(1952))
    with pytest.raises(LocalFault, match="another owner"):
        join(ticket, here)
    (here / "owner.key").unlink()
    join(ticket, here)
    with pytest.raises(LocalFault, match="device forget"):
        join(joined.ticket(3), here)


def test_a_fresh_ticket_after_a_refused_one_keeps_the_key(joined: Desk, tmp_path: Path) -> None:
    here = tmp_path / "d"
    spent, fresh = joined.ticket(1), joined.ticket(2)
    join(spent, tmp_path / "other", serial="1000000000000002")
    with pytest.raises(EnrolmentRefused) as caught:
        join(spent, here)
    assert caught.value.reason is Refusal.USED
    seed = (here / "device.seed").read_bytes()
    join(fresh, here)
    assert (here / "device.seed").read_bytes() == seed


def test_a_board_that_lives_in_the_past_and_one_in_the_future(
    joined: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrol_module.time, "time", lambda: 0.0)
    join(joined.ticket(1), tmp_path / "past")
    monkeypatch.setattr(enrol_module.time, "time", lambda: joined.now + 20 * 365 * 86_400)
    with pytest.raises(PeerFault, match="set the clock"):
        join(joined.ticket(2), tmp_path / "future", serial="1000000000000002")


@pytest.mark.parametrize("name", ["enrolled.json", "enrolling", "device.seed"])
def test_a_damaged_file_is_named(joined: Desk, tmp_path: Path, name: str) -> None:
    here = tmp_path / "d"
    here.mkdir()
    (here / name).write_bytes(b"{}")
    with pytest.raises(LocalFault, match=r"restore|remove|seed"):
        join(joined.ticket(), here)


def test_garbage_instead_of_a_ticket(tmp_path: Path) -> None:
    for data in (b"", b"x", bytes(400_000)):
        with pytest.raises(PeerFault):
            join(data, tmp_path / "d")


def test_nobody_there(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from qflare.enrolment import issue_ticket
    from qflare.envelope import sign

    ticket = desk.ticket()
    closed = replace(ticket.terms, brokers=("mqtt://127.0.0.1:1",))
    data = issue_ticket(closed, sign(WORLD.manifest, WORLD.owner), WORLD.coordinator)
    monkeypatch.setattr(enrol_module.time, "time", lambda: desk.now)
    lines: list[str] = []
    with pytest.raises(NoAnswer, match="same ticket"):
        asyncio.run(enrol(data, tmp_path / "d", "rpi4", SERIAL, lines.append, silence_s=0.6))
    assert any(line.startswith("broker: ") for line in lines)
    assert (tmp_path / "d" / "enrolling").exists()


def test_every_refusal_says_what_to_do() -> None:
    assert set(REMEDIES) == set(Refusal)


def test_the_board_is_found(tmp_path: Path) -> None:
    tree = tmp_path / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (tree / "serial-number").write_bytes(b"10000000 abcdef01\n\0")
    (tree / "compatible").write_bytes(b"raspberrypi,4-model-b\0brcm,bcm2711\0")
    assert identify(tmp_path) == ("rpi4", SERIAL)
    assert identify(tmp_path / "none") == ("", "")


def test_the_marker_is_json(joined: Desk, tmp_path: Path) -> None:
    join(joined.ticket(), tmp_path / "d")
    marker = json.loads((tmp_path / "d" / "enrolled.json").read_text())
    assert marker["name"] == "rpi4-abcdef01"
    assert marker["serial"] == SERIAL

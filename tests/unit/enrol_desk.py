"""An office on a real database, and the device's half; what is between the two is a list."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.database import Store
from coordinator.enrolment.judge import Token
from coordinator.enrolment.keyring import Keyring
from coordinator.enrolment.office import Door, Office, Reply, Signer, Terms, Turn, make_ticket
from coordinator.enrolment.register import Register
from edge_runtime.enrol import default_name, verify_grant
from edge_runtime.enrol_exchange import EnrolmentRefused, Exchange, Keys
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import (
    EnrolGrant,
    EnrolRequest,
    Refusal,
    Ticket,
    parse_ticket,
)
from qflare.envelope import sign
from tests.unit.coordinator_rig import FLEET, START, World

WORLD = World()
SIGNED = sign(WORLD.manifest, WORLD.owner)
OWNER = WORLD.owner.verify_key.raw
DAY = 86_400.0
KEYS = [Keys(SigningKey.generate(DEFAULT), KemPrivateKey.generate(DEFAULT)) for _ in range(3)]
SIGNER = Signer(FLEET, WORLD.coordinator, SIGNED, WORLD.manifest.digest, OWNER)
BROKERS = ("mqtts://broker:8883",)


def terms(**changes: Any) -> Terms:
    made = Terms(WORLD.ca_key, WORLD.ca, 30, BROKERS, b"", auto=True)
    return replace(made, **changes)


class Desk:
    """An office on a database; `restart` is what a kill and a new start come to."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.directory, self.changes = directory, changes
        path = directory / "coordinator.db"
        Store(path).close()
        self.register = Register(path)
        self.now = START
        self.restart()

    def restart(self) -> None:
        self.keyring = Keyring.load(self.directory, new=self.register.empty())
        self.door = Door()
        self.office = Office(SIGNER, terms(**self.changes), self.keyring, self.register)

    def ticket(self, number: int = 1, life: float = DAY, **bound: Any) -> Ticket:
        token = Token(bytes([number]) * 16, self.now, self.now + life, **bound)
        self.register.add([token])
        data = make_ticket(token, SIGNER, self.keyring, BROKERS, b"")
        return parse_ticket(data, OWNER, self.now)

    def say(self, token: bytes, payload: bytes) -> Reply | None:
        self.now += 1.0
        return self.office.handle(token, payload, self.now)

    def knock(self, token: bytes, payload: bytes) -> Reply | None:
        """As `say`, at once and through the door."""
        turn = self.door.turn(token, self.now)
        if turn is Turn.DROPPED:
            return None
        late = turn is Turn.TOO_OFTEN
        return self.office.handle(token, payload, self.now, too_often=late)


def opened(directory: Path) -> Iterator[Desk]:
    """A desk, for a fixture."""
    made = Desk(directory)
    yield made
    made.register.close()


def request(ticket: Ticket, keys: Keys = KEYS[0], **changes: Any) -> EnrolRequest:
    serial = ticket.serial or "10000000abcdef01"
    board = ticket.board or "rpi4"
    made = EnrolRequest(
        fleet=ticket.fleet,
        token=ticket.token,
        suite=DEFAULT.name,
        name=ticket.name or default_name(board, serial, keys.device.verify_key.fingerprint),
        verify_key=keys.device.verify_key.raw,
        kem_key=keys.kem.public.raw,
        board=board,
        serial=serial,
        manifest=ticket.manifest.digest,
        nonce=bytes(32),
    )
    return replace(made, **changes)


def run(desk: Desk, ticket: Ticket, keys: Keys = KEYS[0], **changes: Any) -> EnrolGrant:
    """The whole exchange; the grant, or EnrolmentRefused."""
    made = request(ticket, keys, **changes)
    exchange = Exchange(ticket, made, keys)
    waiting = exchange.connected(0.0)
    for now in range(1, 200):
        for payload in waiting:
            reply = desk.say(ticket.token, payload)
            waiting = exchange.receive(reply.payload, float(now)) if reply else []
        if exchange.grant:
            verify_grant(exchange.grant, ticket, keys.device, desk.now)
            return exchange.grant
        waiting = waiting or exchange.tick(float(now))
    raise AssertionError("it never came")


def refused(desk: Desk, ticket: Ticket, keys: Keys = KEYS[0], **changes: Any) -> Refusal:
    with pytest.raises(EnrolmentRefused) as caught:
        run(desk, ticket, keys, **changes)
    return caught.value.reason

"""Enrolment beside the rounds: a queue and a thread of its own, so that neither holds up the other.

In this order: the grant is durable, the broker knows the account, the device is told. Where a step
fails, the device asks again, and the steps before it are found done.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coordinator.config import CoordinatorConfig
from coordinator.enrolment.office import Door, Reply, Turn
from coordinator.enrolment.setup import accounts_of, open_office
from coordinator.export import database_path
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.broker import Account
from qflare.host.logs import get_logger
from qflare.names import DeviceId, FleetId
from qflare.topics import (
    CoordinatorMetric,
    Down,
    DownTopic,
    EnrolDown,
    EnrolUp,
    build,
    parse,
    token_user,
)

QUEUE_MAX = 256
BATCH_MAX = 32
LOOK_S = 1.0  # how often to look for what the operator's commands wrote
METRIC_S = 5.0  # between two reports of the counters
HOUSEKEEPING_S = 30.0  # tickets expire without anybody writing it down

Publish = Callable[[str, bytes, bool], Any]  # topic, payload, retained

_log = get_logger("enrolment")


@dataclass(frozen=True, slots=True)
class _Waiting:
    token: bytes
    payload: bytes
    too_often: bool


class Enrolment:
    """What the daemon runs where the configuration has [enrolment]."""

    def __init__(self, config: CoordinatorConfig, publish: Publish) -> None:
        """The database is open and migrated. Raises LocalFault for what isn't right."""
        self._fleet = FleetId.parse(config.coordinator.fleet)
        self._publish = publish
        opened = open_office(config, database_path(config), time.time())
        self._office, self._register = opened.office, opened.register
        self._keyring = opened.keyring
        self._accounts = accounts_of(config)
        self._door = Door()
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(QUEUE_MAX)
        self._renewals: set[DeviceId] = set()
        self._version: tuple[float, ...] = ()
        self._kept_at = 0.0
        self._synced = False
        self._awaiting = 0

    @property
    def counters(self) -> dict[str, int]:
        """What happened since the start by name, and how many devices wait for the operator."""
        happened = self._door.counters + self._office.counters
        return dict(sorted({**happened, "awaiting": self._awaiting}.items()))

    def close(self) -> None:
        """Let go of the database."""
        self._register.close()

    def take(self, topic: str, payload: bytes) -> bool:
        """Queue a message if it is one of ours; False if its topic is another part's."""
        if f"/{self._fleet}/enrol/" not in topic:
            return False
        try:
            parsed = parse(topic)
        except PeerFault as fault:
            self._door.counters[f"refused_{fault.reason}"] += 1
            return True
        if not isinstance(parsed, EnrolUp) or parsed.fleet != self._fleet:
            self._door.counters[f"refused_{Reason.WRONG_TOPIC}"] += 1
            return True
        turn = self._door.turn(parsed.token, time.time())
        if turn is Turn.DROPPED:
            return True
        try:
            self._queue.put_nowait(_Waiting(parsed.token, payload, turn is Turn.TOO_OFTEN))
        except asyncio.QueueFull:
            self._door.counters["dropped"] += 1
        return True

    def renew(self, device: DeviceId) -> None:
        """Have this device's certificate renewed; asked again meanwhile, it is done once."""
        if len(self._renewals) < QUEUE_MAX:  # the others greet again
            self._renewals.add(device)

    async def run(self) -> None:
        """Answer, and keep the broker's accounts, until cancelled."""
        said: dict[str, int] = {}
        said_at = -METRIC_S
        while True:
            batch = await self._batch()
            replies = await asyncio.to_thread(self._work, batch)
            for device, renewed in await asyncio.to_thread(self._renew):
                topic = build(DownTopic(self._fleet, device, Down.CERTIFICATE))
                self._publish(topic, renewed, False)
                _log.info("certificate renewed", device=device)
            for reply in replies:
                if reply.grant and not self._synced:
                    continue  # it asks again, and by then the broker may know the account
                self._publish(build(EnrolDown(self._fleet, reply.token)), reply.payload, False)
                if reply.note:
                    _log.info(reply.note, ticket=reply.token.hex(), device=reply.name)
            if self.counters != said and time.monotonic() - said_at >= METRIC_S:
                said, said_at = self.counters, time.monotonic()
                topic = build(CoordinatorMetric(self._fleet, "enrolment"))
                self._publish(topic, json.dumps(said).encode(), True)

    async def _batch(self) -> list[_Waiting]:
        try:
            batch = [await asyncio.wait_for(self._queue.get(), LOOK_S)]
        except TimeoutError:
            return []
        while len(batch) < BATCH_MAX and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _work(self, batch: list[_Waiting]) -> list[Reply]:
        """In the thread: answer these, then see to the accounts."""
        now = time.time()
        replies = [reply for one in batch if (reply := self._answer(one, now)) is not None]
        version = self._register.version()
        due = not 0 <= now - self._kept_at < HOUSEKEEPING_S
        if version != self._version or due or not self._synced:
            self._keep_accounts(now)
            self._version, self._kept_at = version, now
        return replies

    def _renew(self) -> list[tuple[DeviceId, bytes]]:
        """In the thread: a batch of renewals."""
        batch = [self._renewals.pop() for _ in range(min(BATCH_MAX, len(self._renewals)))]
        made = [(device, self._office.renew(device, time.time())) for device in batch]
        return [(device, renewed) for device, renewed in made if renewed is not None]

    def _answer(self, one: _Waiting, now: float) -> Reply | None:
        return self._office.handle(one.token, one.payload, now, too_often=one.too_often)

    def _keep_accounts(self, now: float) -> None:
        wanted = self._register.accounts(now)
        self._awaiting = wanted.awaiting
        keyring = self._keyring
        devices = [
            Account(str(name), keyring.device_password(token, name))
            for token, name in wanted.devices
        ]
        tokens = [Account(token_user(t), keyring.token_password(t)) for t in wanted.tokens]
        try:
            if self._accounts.sync(devices, tokens, wanted.former):
                _log.info("broker accounts written", devices=len(devices), tickets=len(tokens))
            self._synced = True
        except LocalFault as fault:
            if self._synced or not self._version:
                _log.error("broker accounts not written", detail=str(fault))
            self._synced = False

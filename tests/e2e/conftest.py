"""Real brokers for the tests of whole processes: mosquitto and nats-server, each as it ships."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qflare.host.broker import (
    Account,
    BrokerAccounts,
    BrokerKind,
    BrokerPlan,
    make_credentials,
    reload_by,
    start_broker,
)
from qflare.host.broker import mosquitto as mosquitto_config
from qflare.host.broker import nats as nats_config
from qflare.host.link import Link, LinkConfig
from qflare.host.supervise import Supervisor
from qflare.names import DeviceId, FleetId
from qflare.topics import token_user

# A shell's job in the background ignores Ctrl-C; what is started here shall know it all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)

FLEET = FleetId.parse("demo")
DEVICES = tuple(DeviceId.parse(f"dev-{i}") for i in (1, 2, 3))
PRINCIPALS = (*DEVICES, "coordinator", "dashboard")
TOKENS = (bytes(range(16)), bytes(range(16, 32)))  # of two tickets
TICKETS = tuple(map(token_user, TOKENS))


@dataclass(frozen=True)
class RunningBroker:
    """A broker with our access rules, and a password for each principal."""

    plan: BrokerPlan
    supervisor: Supervisor
    credentials: dict[str, str]
    fleet: FleetId = FLEET

    @property
    def kind(self) -> BrokerKind:
        return self.plan.kind

    def url(self, principal: str) -> str:
        """Where `principal` is let in."""
        return self.plan.enrol_url if principal in TICKETS else self.plan.url

    def config(self, principal: str, **changes: Any) -> LinkConfig:
        """How `principal` connects; quick to reconnect, as tests want it."""
        given: dict[str, Any] = {
            "url": self.plan.url,
            "username": principal,
            "password": self.credentials[principal],
            "backoff_first_s": 0.05,
            "backoff_max_s": 0.5,
        }
        return LinkConfig(**(given | changes))


@asynccontextmanager
async def run_broker(
    kind: BrokerKind, directory: Path, *, enrolment: bool = False
) -> AsyncIterator[RunningBroker]:
    """Start a broker in `directory`, restarted whenever it is killed, until the block ends."""
    credentials = make_credentials(PRINCIPALS)
    async with Supervisor(directory / "logs") as supervisor:
        plan = await start_broker(
            supervisor,
            kind,
            directory / "broker",
            FLEET,
            credentials,
            max_devices=50,
            enrolment=enrolment,
        )
        if enrolment:
            await let_tickets_in(plan, credentials)
        yield RunningBroker(plan, supervisor, credentials)


async def let_tickets_in(plan: BrokerPlan, credentials: dict[str, str]) -> None:
    """Give two tickets accounts, as the coordinator does it; their passwords go to the others'."""
    made = make_credentials(TICKETS)
    tickets = [Account(user, password) for user, password in made.items()]
    reload = reload_by(plan.kind, [], plan.pid_file)
    keep = BrokerAccounts(plan.kind, FLEET, plan.device_accounts, plan.token_accounts, reload)
    await asyncio.to_thread(keep.sync, [], tickets, [])
    credentials |= made
    link = Link(
        LinkConfig(plan.enrol_url, TICKETS[0], password=made[TICKETS[0]], backoff_max_s=0.2)
    )
    task = asyncio.create_task(link.run(lambda _: None))
    while not link.connected:  # the broker reads the file when it comes to it
        await asyncio.sleep(0.05)
    link.close()
    await task


@pytest.fixture(params=list(BrokerKind), ids=str)
def broker_kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Each kind of broker in turn; skipped where it isn't installed."""
    kind: BrokerKind = request.param
    if not _installed(kind):
        pytest.skip(f"{kind} is not installed")
    return kind


def some_broker() -> BrokerKind:
    """For what has nothing to do with the kind of broker: the first one that is installed."""
    found = next(filter(_installed, BrokerKind), None)
    return found if found is not None else pytest.skip("no broker is installed")


def _installed(kind: BrokerKind) -> bool:
    found = mosquitto_config.find() if kind is BrokerKind.MOSQUITTO else nats_config.find()
    return found is not None


@pytest.fixture
def with_tickets(broker_kind: BrokerKind, tmp_path: Path) -> "WithBroker":
    """The same as `with_broker`, with a broker that lets two tickets in."""

    def run(body: Callable[[RunningBroker], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            running = run_broker(broker_kind, tmp_path, enrolment=True)
            async with asyncio.timeout(180), running as broker:
                await body(broker)

        asyncio.run(main())

    return run


WithBroker = Callable[[Callable[[RunningBroker], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def with_broker(broker_kind: BrokerKind, tmp_path: Path) -> WithBroker:
    """Run a coroutine function with a fresh broker, on an event loop of its own."""

    def run(body: Callable[[RunningBroker], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(120), run_broker(broker_kind, tmp_path) as broker:
                await body(broker)

        asyncio.run(main())

    return run

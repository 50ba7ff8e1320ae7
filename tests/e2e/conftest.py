"""Real brokers for the tests of whole processes: mosquitto and nats-server, each as it ships."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qflare.host.broker import BrokerKind, BrokerPlan, make_credentials, start_broker
from qflare.host.broker import mosquitto as mosquitto_config
from qflare.host.broker import nats as nats_config
from qflare.host.link import LinkConfig
from qflare.host.supervise import Supervisor
from qflare.names import DeviceId, FleetId

FLEET = FleetId.parse("demo")
DEVICES = tuple(DeviceId.parse(f"dev-{i}") for i in (1, 2, 3))
PRINCIPALS = (*DEVICES, "coordinator", "dashboard")


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
        yield RunningBroker(plan, supervisor, credentials)


@pytest.fixture(params=list(BrokerKind), ids=str)
def broker_kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Each kind of broker in turn; skipped where it isn't installed."""
    kind: BrokerKind = request.param
    found = mosquitto_config.find() if kind is BrokerKind.MOSQUITTO else nats_config.find()
    if found is None:
        pytest.skip(f"{kind} is not installed")
    return kind


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

"""A device joins by a ticket: the real broker, the real coordinator, the operator's commands."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.enrol import Enrolled, EnrolmentRefused, enrol
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import Refusal
from qflare.host.broker import BrokerKind
from qflare.host.link import Disconnected, Event, Link, LinkConfig, Message
from qflare.messages import DeviceHello
from qflare.names import Digest
from qflare.topics import (
    CoordinatorState,
    DownChunk,
    Up,
    UpTopic,
    build,
    device_filters,
)
from qflare.transfer import AskBlob
from tests.e2e.conftest import FLEET, RunningBroker, run_broker
from tests.enrol_kit import Home, new_world
from tests.unit.coordinator_rig import GRAPH

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e")]

_WORLD = new_world()
Body = Callable[[RunningBroker, Home], Coroutine[Any, Any, None]]


@pytest.fixture
def with_fleet(broker_kind: BrokerKind, tmp_path: Path) -> Callable[[Body], None]:
    """Run a coroutine function with a broker that lets tickets in, and a coordinator's home."""

    def run(body: Body) -> None:
        async def main() -> None:
            async with (
                asyncio.timeout(150),
                run_broker(broker_kind, tmp_path / "b", enrolment=True) as broker,
            ):
                home = Home(tmp_path / "co", _WORLD)
                home.write(broker.plan, broker.credentials["coordinator"])
                await body(broker, home)

        asyncio.run(main())

    return run


@asynccontextmanager
async def coordinator(home: Home) -> AsyncIterator[asyncio.subprocess.Process]:
    log = (home.path / "log").open("ab")
    command = [sys.executable, "-m", "coordinator.daemon", "--config", str(home.config_file)]
    process = await asyncio.create_subprocess_exec(*command, stderr=log)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        log.close()


async def join(
    ticket: Path, directory: Path, board: str = "rpi4", serial: str = "10000000abcdef01"
) -> Enrolled:
    lines: list[str] = []
    try:
        return await enrol(
            ticket.read_bytes(), directory, board, serial, lines.append, silence_s=40
        )
    finally:
        print(lines)


async def ticket(home: Home, *words: str) -> Path:
    return await asyncio.to_thread(home.ticket, *words)


async def works_as_a_device(directory: Path, enrolled: Enrolled) -> None:
    """Connect with its own account, greet with its certificate, and be answered."""
    heard: dict[str, bytes] = {}

    def hear(event: Event) -> None:
        if isinstance(event, Message):
            heard[event.topic] = event.payload

    config = LinkConfig(
        enrolled.brokers[0],
        enrolled.name,
        password_file=directory / "broker.password",
        backoff_max_s=0.5,
    )
    link = Link(config, subscriptions=device_filters(FLEET, enrolled.name))
    task = asyncio.create_task(link.run(hear))
    chunk = build(DownChunk(FLEET, enrolled.name, Digest.of(GRAPH), 0))
    hello = DeviceHello((directory / "device.der").read_bytes(), 5).to_bytes()
    ask = AskBlob(Digest.of(GRAPH), (0,)).to_bytes()
    async with asyncio.timeout(30):
        while chunk not in heard:
            if link.connected:
                link.publish(build(UpTopic(FLEET, enrolled.name, Up.HELLO)), hello)
                link.publish(build(UpTopic(FLEET, enrolled.name, Up.ASK)), ask)
            await asyncio.sleep(0.1)
    assert heard[chunk] == GRAPH
    assert build(CoordinatorState(FLEET)) in heard
    link.close()
    await task


def test_from_a_ticket_to_a_device(with_fleet: Any, tmp_path: Path) -> None:
    async def body(broker: RunningBroker, home: Home) -> None:
        here = tmp_path / "device"
        async with coordinator(home):
            first = await ticket(home, "--name", "pump-7", "--board", "rpi4")
            enrolled = await join(first, here)
            assert enrolled.name == "pump-7"
            key = SigningKey.from_seed(DEFAULT, (here / "device.seed").read_bytes())
            assert enrolled.fingerprint == key.verify_key.fingerprint
            assert (here / "device.seed").stat().st_mode & 0o077 == 0
            assert (here / "broker.password").stat().st_mode & 0o077 == 0
            await works_as_a_device(here, enrolled)
            again = await join(first, here)
            assert again == enrolled
            with pytest.raises(EnrolmentRefused) as caught:
                await join(first, tmp_path / "second")
            assert caught.value.reason in (Refusal.USED,)
            (row,) = await asyncio.to_thread(home.qflare, "enrol", "list")
            assert row["words"] == enrolled.words
            (entry,) = await asyncio.to_thread(home.qflare, "token", "list")
            assert (entry["state"], entry["device"]) == ("confirmed", "pump-7")

    with_fleet(body)


def test_the_operator_decides(with_fleet: Any, tmp_path: Path) -> None:
    async def body(broker: RunningBroker, home: Home) -> None:
        home.write(broker.plan, broker.credentials["coordinator"], approve="operator")
        async with coordinator(home):
            good = await ticket(home, "--name", "good")
            bad = await ticket(home, "--name", "bad")
            joining = [
                asyncio.create_task(join(path, tmp_path / path.name)) for path in (good, bad)
            ]
            async with asyncio.timeout(40):
                while True:
                    rows = await asyncio.to_thread(home.qflare, "enrol", "list")
                    if [row["state"] for row in rows] == ["awaiting"] * 2:
                        break
            words = {row["name"]: row["words"] for row in rows}
            await asyncio.to_thread(home.qflare, "enrol", "approve", "good")
            await asyncio.to_thread(home.qflare, "enrol", "refuse", "bad")
            enrolled = await joining[0]
            assert enrolled.words == words["good"]
            with pytest.raises(EnrolmentRefused) as caught:
                await joining[1]
            assert caught.value.reason is Refusal.DENIED
            await works_as_a_device(tmp_path / good.name, enrolled)
            await asyncio.to_thread(home.qflare, "enrol", "revoke", "good")
            await is_shut_out(tmp_path / good.name, enrolled)

    with_fleet(body)


async def is_shut_out(directory: Path, enrolled: Enrolled) -> None:
    refused = asyncio.Event()

    def hear(event: Event) -> None:
        if isinstance(event, Disconnected) and event.refused:
            refused.set()

    config = LinkConfig(
        enrolled.brokers[0],
        enrolled.name,
        password_file=directory / "broker.password",
        backoff_max_s=0.5,
    )
    link = Link(config)
    task = asyncio.create_task(link.run(hear))
    async with asyncio.timeout(20):
        await refused.wait()
    link.close()
    await task


def test_two_boards_with_one_ticket(with_fleet: Any, tmp_path: Path) -> None:
    async def body(broker: RunningBroker, home: Home) -> None:
        async with coordinator(home):
            shared = await ticket(home)
            racers = [
                join(shared, tmp_path / f"racer-{i}", serial=f"1000000000{i:06d}")
                for i in range(3)
            ]
            results = await asyncio.gather(*racers, return_exceptions=True)
            won = [r for r in results if isinstance(r, Enrolled)]
            lost = [r for r in results if isinstance(r, EnrolmentRefused)]
            assert (len(won), len(lost)) == (1, 2), results
            assert {fault.reason for fault in lost} == {Refusal.USED}
            (row,) = await asyncio.to_thread(home.qflare, "enrol", "list")
            assert row["name"] == won[0].name

    with_fleet(body)

"""A device joins by a ticket: the real broker, the real coordinator, the operator's commands."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.enrol import Enrolled, EnrolmentRefused, enrol
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import EnrolRequest, Refusal, peek_terms
from qflare.host.broker import BrokerKind
from qflare.host.link import Disconnected, Event, Link, LinkConfig, Message
from qflare.messages import DeviceHello
from qflare.names import DeviceId, Digest
from qflare.topics import (
    CoordinatorState,
    DownChunk,
    EnrolDown,
    EnrolUp,
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
            assert here.stat().st_mode & 0o777 == 0o755
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
                join(shared, tmp_path / f"racer-{i}", serial=f"1000000000{i:06d}") for i in range(3)
            ]
            results = await asyncio.gather(*racers, return_exceptions=True)
            won = [r for r in results if isinstance(r, Enrolled)]
            lost = [r for r in results if isinstance(r, EnrolmentRefused)]
            assert (len(won), len(lost)) == (1, 2), results
            assert {fault.reason for fault in lost} == {Refusal.USED}
            (row,) = await asyncio.to_thread(home.qflare, "enrol", "list")
            assert row["name"] == won[0].name

    with_fleet(body)


def test_the_coordinator_is_killed_again_and_again(with_fleet: Any, tmp_path: Path) -> None:
    """kill -9 at any moment of an enrolment: one certificate a ticket, and the device comes in."""

    async def body(broker: RunningBroker, home: Home) -> None:
        rng = random.Random(7)
        async with coordinator(home):
            tickets = [await ticket(home, "--name", f"dev-{i}") for i in range(11, 15)]
        joining = [
            asyncio.create_task(join(path, tmp_path / f"d{i}", serial=f"1000000000{i:06d}"))
            for i, path in enumerate(tickets)
        ]
        kills = 0
        while not all(task.done() for task in joining) and kills < 8:
            async with coordinator(home) as process:
                # It takes about a second until it answers; twice it doesn't come to that.
                patience = rng.uniform(0.2, 0.7) if kills < 2 else rng.uniform(0.7, 2.2)
                await asyncio.wait(joining, timeout=patience)
                process.kill()
                await process.wait()
                kills += 1
        async with coordinator(home):
            enrolled = await asyncio.gather(*joining)
            rows = await asyncio.to_thread(home.qflare, "enrol", "list")
            assert {row["name"]: row["words"] for row in rows} == {
                one.name: one.words for one in enrolled
            }
            for i, one in enumerate(enrolled):
                await works_as_a_device(tmp_path / f"d{i}", one)
        assert kills >= 2

    with_fleet(body)


def test_the_device_is_killed_again_and_again(with_fleet: Any, tmp_path: Path) -> None:
    """The command as a process, killed at random and run again: always the same device."""

    async def body(broker: RunningBroker, home: Home) -> None:
        rng = random.Random(3)
        program = (
            "import argparse, sys; from edge_runtime.enrol import add_enrol_parser\n"
            "parser = argparse.ArgumentParser(); add_enrol_parser(parser.add_subparsers())\n"
            "arguments = parser.parse_args(); sys.exit(arguments.run(arguments))"
        )
        async with coordinator(home):
            path = await ticket(home, "--name", "dev-21")
            here = tmp_path / "d"
            command = [sys.executable, "-c", program, "enrol", "--ticket", str(path)]
            command += ["--dir", str(here), "--serial", "abc123", "--board", "rpi4", "--json"]
            seeds, kills, code = set(), 0, -9
            while code != 0:
                process = await asyncio.create_subprocess_exec(
                    *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
                patience = rng.uniform(0.2, 1.2) if kills < 10 else 60.0
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), patience)
                if process.returncode is None:
                    process.kill()
                    kills += 1
                out, err = await process.communicate()
                code = process.returncode or 0
                assert code in (0, -9, 75), err.decode()
                if (here / "device.seed").exists():
                    seeds.add((here / "device.seed").read_bytes())
            assert kills
            assert len(seeds) == 1
            said = json.loads(out)
            (row,) = await asyncio.to_thread(home.qflare, "enrol", "list")
            assert (row["name"], row["words"]) == (said["name"], said["words"])
            assert said["brokers"] == [broker.plan.url]

    with_fleet(body)


def test_a_flood_from_one_ticket_holds_nobody_up(with_fleet: Any, tmp_path: Path) -> None:
    async def body(broker: RunningBroker, home: Home) -> None:
        async with coordinator(home) as process:
            hostile = peek_terms((await ticket(home)).read_bytes())
            honest = await ticket(home, "--name", "honest")
            up = build(EnrolUp(FLEET, hostile.token))
            config = LinkConfig(
                hostile.brokers[0], hostile.user, password=hostile.password, backoff_max_s=0.5
            )
            link = Link(config, subscriptions=[build(EnrolDown(FLEET, hostile.token))])
            answers: list[bytes] = []

            def hear(event: Event) -> None:
                if isinstance(event, Message):
                    answers.append(event.payload)

            task = asyncio.create_task(link.run(hear))
            while not link.connected:
                await asyncio.sleep(0.05)
            request = EnrolRequest(
                fleet=FLEET,
                token=hostile.token,
                suite=DEFAULT.name,
                name=DeviceId.parse("hostile"),
                verify_key=SigningKey.generate(DEFAULT).verify_key.raw,
                kem_key=KemPrivateKey.generate(DEFAULT).public.raw,
                board="",
                serial="",
                manifest=Digest(bytes(32)),
                nonce=bytes(32),
            ).to_bytes()
            payloads = [request, b"", b"\xff" * 9000, os.urandom(300_000), request[:-1]]

            async def flood() -> None:
                while True:
                    for payload in payloads:
                        link.publish(up, payload)
                    await asyncio.sleep(0.002)

            flooding = asyncio.create_task(flood())
            await asyncio.sleep(0.5)
            enrolled = await join(honest, tmp_path / "honest")
            await works_as_a_device(tmp_path / "honest", enrolled)
            flooding.cancel()
            assert process.returncode is None
            assert len(answers) < 60
            link.close()
            await task

    with_fleet(body)

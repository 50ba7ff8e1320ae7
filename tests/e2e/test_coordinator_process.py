"""`qflare-coordinator` as a process: its commands, its signals, and a broker full of garbage."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qflare.host.link import Event, Link, Message
from qflare.messages import DeviceHello, PartyState, Presence
from qflare.names import DeviceId, Digest
from qflare.topics import (
    CoordinatorMetric,
    CoordinatorState,
    DownChunk,
    StateTopic,
    Topic,
    Up,
    UpChunk,
    UpTopic,
    build,
    dashboard_filters,
    device_filters,
)
from qflare.transfer import AskBlob
from tests.coordinator_home import found
from tests.e2e.conftest import FLEET, RunningBroker, WithBroker
from tests.unit.coordinator_rig import GRAPH, WEIGHTS, World

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e")]

DEV = DeviceId.parse("dev-1")
_WORLD = World(start=time.time())


def write_config(home: Path, broker: RunningBroker | None = None) -> Path:
    if broker is None:
        return found(home, _WORLD, "mqtt://127.0.0.1:1", "x")
    return found(home, _WORLD, broker.plan.url, broker.credentials["coordinator"])


def command(config: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "coordinator.daemon", "--config", str(config), *more]


def run(config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, *more), capture_output=True, text=True, timeout=60)


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert run(config, "--check").returncode == 0
    text = config.read_text()
    for good, bad, said in (
        ("min_cohort = 2", "min_cohort = true", "policy.min_cohort"),
        ('codec = "q8"', 'codec = "q4"', "codec"),
        ("max_cohort = 50", "max_cohort = 1", "max_cohort"),
        ("clip_norm = 1.0", "clip_norm = 1.0\nnoise = 3", "policy.noise"),
        (f"{tmp_path}/weights", f"{tmp_path}/graph", "weights"),
        (f"{tmp_path}/key", f"{tmp_path}/nowhere", "nowhere"),
    ):
        config.write_text(text.replace(good, bad))
        result = run(config, "--check")
        assert result.returncode == 78, said
        assert said in result.stderr
    assert run(config).returncode == 78
    assert run(tmp_path / "none.toml").returncode == 78
    help_text = subprocess.run(command(config, "--help"), capture_output=True, text=True).stdout
    assert "examples:" in help_text


def test_export_without_a_database_says_so(tmp_path: Path) -> None:
    result = run(write_config(tmp_path), "export")
    assert result.returncode == 1
    assert "never run" in result.stderr


class Listener:
    """A link that remembers what came last on each topic."""

    def __init__(self, broker: RunningBroker, who: str, filters: tuple[str, ...]) -> None:
        self.link = Link(broker.config(who), subscriptions=filters)
        self.latest: dict[str, bytes] = {}

    def hear(self, event: Event) -> None:
        if isinstance(event, Message):
            self.latest[event.topic] = event.payload

    async def until(self, topic: Topic, wanted: Any = bool) -> bytes:
        async with asyncio.timeout(30):
            while not wanted(self.latest.get(build(topic), b"")):
                await asyncio.sleep(0.02)
        return self.latest[build(topic)]


@asynccontextmanager
async def listening(broker: RunningBroker, who: str) -> AsyncIterator[Listener]:
    filters = dashboard_filters(FLEET) if who == "dashboard" else device_filters(FLEET, DEV)
    listener = Listener(broker, who, filters)
    task = asyncio.create_task(listener.link.run(listener.hear))
    while not listener.link.connected:
        await asyncio.sleep(0.02)
    try:
        yield listener
    finally:
        listener.link.close()
        await task


@asynccontextmanager
async def coordinator(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*command(config))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


STATE = CoordinatorState(FLEET)


def presence(status: Presence) -> Any:
    return lambda payload: bool(payload) and PartyState.parse(payload).status is status


def test_a_life(with_broker: WithBroker, tmp_path: Path) -> None:
    async def body(broker: RunningBroker) -> None:
        config = write_config(tmp_path / "co", broker)
        async with listening(broker, "dashboard") as dashboard, listening(broker, DEV) as device:
            async with coordinator(config) as process:
                await dashboard.until(STATE, presence(Presence.ONLINE))
                await ask_for_blobs(device)
                await garbage(device, dashboard)
                second = await asyncio.to_thread(run, config)
                assert second.returncode == 1
                assert "in use" in second.stderr
                exported = json.loads((await asyncio.to_thread(run, config, "export")).stdout)
                assert exported["rounds"] == []
                os.kill(process.pid, signal.SIGTERM)
                assert await process.wait() == 0
                await dashboard.until(STATE, presence(Presence.STOPPED))
            async with coordinator(config) as process:
                await dashboard.until(STATE, presence(Presence.ONLINE))
                process.kill()
                await dashboard.until(STATE, presence(Presence.LOST))

    with_broker(body)


async def ask_for_blobs(device: Listener) -> None:
    _, der = _WORLD.identity(DEV)
    state = PartyState(Presence.ONLINE, 5, "1", "").to_bytes()
    device.link.publish(build(StateTopic(FLEET, DEV)), state, retain=True)
    hello = DeviceHello(der, 5).to_bytes()
    device.link.publish(build(UpTopic(FLEET, DEV, Up.HELLO)), hello)
    for blob in (GRAPH, WEIGHTS):
        ask = AskBlob(Digest.of(blob), (0,)).to_bytes()
        device.link.publish(build(UpTopic(FLEET, DEV, Up.ASK)), ask)
        chunk = await device.until(DownChunk(FLEET, DEV, Digest.of(blob), 0))
        assert chunk == blob


async def garbage(device: Listener, dashboard: Listener) -> None:
    """To every topic that a device may write; the next honest question is answered."""
    topics: list[Topic] = [UpTopic(FLEET, DEV, kind) for kind in Up]
    topics += [UpChunk(FLEET, DEV, Digest.of(b"x"), 3), StateTopic(FLEET, DEV)]
    for topic in topics:
        for payload in (b"", b"\xff", b"\x82\x01", os.urandom(5000), bytes(900_000)):
            assert device.link.publish(build(topic), payload)
    device.link.publish(f"qflare/1/{FLEET}/{DEV}/up/nothing", b"x")
    metric = CoordinatorMetric(FLEET, "refusals")
    await dashboard.until(metric, lambda p: p and sum(json.loads(p).values()) >= 20)
    await asyncio.sleep(0.3)  # the last ones
    device.latest.clear()
    ask = AskBlob(Digest.of(GRAPH), (0,)).to_bytes()
    device.link.publish(build(UpTopic(FLEET, DEV, Up.ASK)), ask)
    await device.until(DownChunk(FLEET, DEV, Digest.of(GRAPH), 0))

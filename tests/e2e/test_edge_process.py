"""The real device process, a real broker, and a coordinator that is a few lines of this file."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from edge_runtime.upgrade.health import read_health
from qflare import tallies, topics
from qflare.envelope import Update, open_signed
from qflare.faults import PeerFault
from qflare.host.link import Link
from qflare.host.link_types import Connected, Event, Message
from qflare.messages import PartyState, Presence, Telemetry, parse_any, update_leaf
from qflare.names import Digest
from qflare.proofs import Tree
from qflare.report import DeviceReport
from qflare.topics import (
    All,
    AllTopic,
    Down,
    DownChunk,
    DownTopic,
    StateTopic,
    Up,
    UpChunk,
    UpTopic,
)
from qflare.transfer import (
    AskBlob,
    AskConsistency,
    AskInclusion,
    Grant,
    InclusionAnswer,
    TransferOffer,
)
from tests.e2e.conftest import RunningBroker, WithBroker
from tests.edge_lab import DEVICE, FLEET, POLICY, Lab

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CHUNK = 64 * 1024
# Gates that the machine which tests would close now and then.
BUSY = ("power", "temperature", "throttling", "load", "memory", "disk", "network")


class Desk:
    """The coordinator's part of the protocol, for one device. `grant` False: updates must wait."""

    def __init__(self, lab: Lab, link: Link) -> None:
        self.lab, self.link = lab, link
        self.blobs = {Digest.of(b): b for b in (lab.graph, lab.genesis)}
        self.grant = True
        self.slow_s = 0.0  # that a piece of a model takes
        self.offers: list[TransferOffer] = []
        self.updates: dict[Digest, bytes] = {}
        self.telemetry: list[Telemetry] = []
        self.reports: list[DeviceReport] = []
        self.states: list[PartyState] = []
        self.sent: set[Digest] = set()
        self.proofs = 0
        self.refused = 0
        self._parts: dict[int, bytes] = {}
        self.up = asyncio.Event()

    def on_event(self, event: Event) -> None:
        match event:
            case Connected():
                self.up.set()
            case Message(topic, payload, _):
                try:
                    self._receive(topics.parse(topic), payload)
                except PeerFault:
                    self.refused += 1

    def to_all(self, kind: All, payload: bytes) -> None:
        self.link.publish(topics.build(AllTopic(FLEET, kind)), payload, retain=True)

    def down(self, kind: Down, payload: bytes) -> None:
        self.link.publish(topics.build(DownTopic(FLEET, DEVICE, kind)), payload)

    def _receive(self, topic: topics.Topic, payload: bytes) -> None:
        match topic:
            case StateTopic():
                self.states.append(PartyState.parse(payload))
            case UpTopic(kind=Up.ASK):
                self._ask(parse_any(payload, AskBlob, AskConsistency, AskInclusion))
            case UpTopic(kind=Up.OFFER):
                offer = TransferOffer.parse(payload)
                self.offers.append(offer)
                if self.grant:
                    self._parts.clear()
                    self.down(
                        Down.GRANT, Grant(offer.transfer, tuple(range(offer.chunks))).to_bytes()
                    )
            case UpChunk():
                self._chunk(topic, payload)
            case UpTopic(kind=Up.REPORT):
                self.reports.append(open_signed(DeviceReport, payload, self.lab.key.verify_key))
            case UpTopic(kind=Up.TELEMETRY):
                self.telemetry.append(open_signed(Telemetry, payload, self.lab.key.verify_key))

    def _ask(self, ask: AskBlob | AskConsistency | AskInclusion) -> None:
        match ask:
            case AskBlob(blob, indices):
                for i in indices:
                    part = self.blobs[blob][i * CHUNK : (i + 1) * CHUNK]
                    topic = topics.build(DownChunk(FLEET, DEVICE, blob, i))
                    loop = asyncio.get_running_loop()
                    loop.call_later(self.slow_s, self.link.publish, topic, part)
                self.sent.add(blob)
            case AskInclusion(round_, update):
                proof = Tree([update_leaf(DEVICE, update)]).inclusion_proof(0)
                self.proofs += 1
                self.down(Down.ANSWER, InclusionAnswer(round_, update, 0, 1, proof).to_bytes())
            case AskConsistency():
                raise AssertionError("no release was missed")

    def _chunk(self, topic: UpChunk, payload: bytes) -> None:
        self._parts[topic.index] = payload
        whole = b"".join(self._parts[i] for i in sorted(self._parts))
        if Digest.of(whole) == topic.transfer:
            self.updates[topic.transfer] = whole
            round_ = Update.parse(whole, 1_000_000).header.round
            self.down(Down.RECEIPT, self.lab.update_receipt(round_, topic.transfer))


AnyDesk = TypeVar("AnyDesk", bound=Desk)


async def until(condition: Callable[[], object], within: float = 150.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def desk(
    broker: RunningBroker, lab: Lab, kind: type[AnyDesk] = Desk
) -> AsyncIterator[AnyDesk]:
    link = Link(broker.config("coordinator"), subscriptions=topics.coordinator_filters(FLEET))
    made = kind(lab, link)
    task = asyncio.create_task(link.run(made.on_event))
    try:
        await made.up.wait()
        made.to_all(All.MANIFEST, lab.signed_manifest())
        yield made
    finally:
        link.close()
        await task


def write_device(directory: Path, lab: Lab, broker: RunningBroker, seed: int = 5) -> Path:
    """Everything that a device needs, in files; the path of its edge.toml."""
    rng = np.random.Generator(np.random.PCG64(3))
    np.savez(
        directory / "data.npz",
        x_train=rng.normal(size=(160, 128, 6)).astype(np.float32),
        y_train=rng.integers(0, 7, 160).astype(np.int32),
        x_test=rng.normal(size=(20, 128, 6)).astype(np.float32),
        y_test=rng.integers(0, 7, 20).astype(np.int32),
    )
    (directory / "key").write_bytes(lab.key.to_seed())
    (directory / "device.der").write_bytes(lab.der)
    (directory / "owner.key").write_bytes(lab.owner.verify_key.raw)
    (directory / "password").write_text(broker.credentials[DEVICE])
    (directory / "edge.toml").write_text(
        f"""
[device]
fleet = "{FLEET}"
name = "{DEVICE}"
state_dir = "state"
key = "key"
certificate = "device.der"
owner_key = "owner.key"
[broker]
url = "{broker.plan.url}"
password_file = "password"
[data]
path = "data.npz"
[training]
insecure_seed = {seed}
[transfer]
chunk = 4096
[gates]
every_seconds = 5
rest_seconds = 0
{"".join(f"{gate}.enabled = false{chr(10)}" for gate in BUSY)}
[gates.hold]
file = "{directory / "hold"}"
[log]
format = "json"
file = "edge.log"
"""
    )
    return directory / "edge.toml"


@asynccontextmanager
async def device(config: Path, *arguments: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The daemon as a process of its own, killed at the end if it still runs."""
    command = [sys.executable, "-m", "edge_runtime.daemon", "--config", str(config), *arguments]
    with (config.parent / "stderr").open("ab") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stderr=errors)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await asyncio.to_thread(process.wait)


def own_memory(pid: int) -> int:
    """Anonymous resident memory of a process, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def logged(config: Path) -> list[dict[str, object]]:
    log = config.parent / "edge.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def count(config: Path, event: str) -> int:
    return sum(line["event"] == event for line in logged(config))


def slow_offer(lab: Lab, round_: int, epochs: int) -> bytes:
    schedule = replace(POLICY.schedule, local_epochs=epochs, learning_rate=0.001)
    return lab.signed_offer(round_, policy=replace(POLICY, schedule=schedule))


def test_rounds_through_kills(with_broker: WithBroker, tmp_path: Path) -> None:
    """kill -9 while training, and after the commit: one update a round, resent and not remade."""

    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        async with desk(broker, lab) as it:
            it.grant = False
            it.to_all(All.OFFER, slow_offer(lab, 1, 60))
            async with device(config) as process:
                await until(lambda: count(config, "offer accepted") == 1)
                await until(lambda: len(it.sent) == 2)  # graph and weights
                await asyncio.sleep(0.3)
                assert not it.offers
                process.kill()
            async with device(config) as process:
                await until(lambda: it.offers)
                process.kill()
            first = it.offers[0].transfer
            it.grant = True
            async with device(config) as process:
                await until(lambda: first in it.updates)
                assert set(it.updates) == {first}
                assert count(config, "offer accepted") == 2
                weights = lab.genesis
                opened = Update.parse(it.updates[first], 1_000_000).open(lab.kem)
                assert opened.weight == 160
                tallies.verify(opened.tallies, lab.classes, POLICY.weight_cap)
                assert sum(opened.tallies[:-2:3]) == 20
                it.to_all(All.MODEL, lab.release(1, weights, (first,)))
                await until(lambda: it.telemetry and count(config, "update counted"))
                (telemetry,) = it.telemetry
                assert (telemetry.round, telemetry.examples) == (1, 20)
                counters = dict(telemetry.counters)
                assert counters["update_bytes"] == len(it.updates[first])
                # Of what is resident, the part that is the process's own; the mapped files (about
                # 45 MB) differ by several MB with the state of the machine's page cache, and
                # are what benchmarks/device reports.
                assert counters["rss_kb"] > 0
                assert own_memory(process.pid) < 55e6
                it.to_all(All.OFFER, slow_offer(lab, 2, 1))
                await until(lambda: len(it.updates) == 2)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait) == 0
            await until(lambda: it.states[-1].status is Presence.STOPPED)
            online = [s.session for s in it.states if s.status is Presence.ONLINE]
            assert sorted(set(online)) == [1, 2, 3]
            health = read_health(tmp_path / "state")
            assert health is not None
            assert (health.online, health.pid) == (True, process.pid)
            assert not it.refused
            assert not count(config, "refused")

    with_broker(body)


def test_garbage_while_a_round_runs(with_broker: WithBroker, tmp_path: Path) -> None:
    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        async with desk(broker, lab) as it, device(config):
            await until(lambda: any(s.status is Presence.ONLINE for s in it.states))
            it.to_all(All.OFFER, slow_offer(lab, 1, 20))
            for _ in range(20):
                for kind in Down:
                    it.down(kind, os.urandom(200))
                topic = DownChunk(FLEET, DEVICE, Digest.of(lab.graph), 0)
                it.link.publish(topics.build(topic), os.urandom(1000))
            await until(lambda: it.updates)
            assert count(config, "refused") >= 60

    with_broker(body)


def test_a_gate_pauses_and_the_operator_sees_why(with_broker: WithBroker, tmp_path: Path) -> None:
    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        slowly = config.read_text().replace("[training]\n", "[training]\nduty = 0.1\n")
        config.write_text(slowly)
        hold = tmp_path / "hold"
        async with desk(broker, lab) as it, device(config) as process:
            await until(lambda: it.states and it.states[-1].status is Presence.ONLINE)
            it.to_all(All.OFFER, slow_offer(lab, 1, 1000))
            await until(lambda: count(config, "offer accepted") == 1 and len(it.sent) == 2)
            hold.write_text("the pump is running\n")
            await until(lambda: "the pump is running" in it.states[-1].detail)
            assert not it.offers
            await asyncio.sleep(2)
            assert not it.offers
            hold.unlink()
            await until(lambda: it.states[-1].detail == "")
            await until(lambda: it.updates, 120)
            # Closed again, and stopped in it: the last word says nothing of a pause.
            hold.write_text("again")
            await until(lambda: "again" in it.states[-1].detail)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
            await until(lambda: it.states[-1].status is Presence.STOPPED)
            assert it.states[-1].detail == ""

    with_broker(body)


def test_two_devices_cannot_share_a_state_directory(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        config = write_device(tmp_path, Lab(), broker)
        async with device(config):
            await until(lambda: count(config, "connected"))
            async with device(config) as second:
                assert await asyncio.to_thread(second.wait) == 1
        assert "in use" in (tmp_path / "stderr").read_text()

    with_broker(body)

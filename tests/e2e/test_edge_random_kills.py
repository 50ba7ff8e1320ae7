"""kill -9 at random moments of a device's rounds: what others saw of it was on its disk before.

The daemon and the broker are real; the coordinator goes on with its rounds whatever becomes of the
device. After each kill its directory is held against all that it had said until then.
"""

import asyncio
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.memory import Fate
from edge_runtime.slots import read_slot
from edge_runtime.state import JOURNAL_KEPT, Past
from edge_runtime.store import Store
from qflare import topics
from qflare.envelope import open_signed
from qflare.host.broker import BrokerKind
from qflare.host.link import Link
from qflare.messages import Presence, Telemetry
from qflare.names import Digest
from qflare.proofs import Tree
from qflare.topics import All, Down, Up, UpChunk, UpTopic
from qflare.transfer import (
    AskBlob,
    AskConsistency,
    AskInclusion,
    ConsistencyAnswer,
    Grant,
    TransferOffer,
)
from tests.e2e.conftest import RunningBroker, WithBroker, some_broker
from tests.e2e.test_edge_process import (
    Desk,
    count,
    desk,
    device,
    logged,
    slow_offer,
    until,
    write_device,
)
from tests.edge_lab import Lab

pytestmark = pytest.mark.slow
SECONDS = 30.0
ROUND_S = 6.0  # a round that nobody answers ends without us


@pytest.fixture
def broker_kind() -> BrokerKind:
    return some_broker()


class Rounds(Desk):
    """Round after round, and a note of all that the device said."""

    def __init__(self, lab: Lab, link: Link) -> None:
        super().__init__(lab, link)
        self.round = 0
        self.released: dict[Digest, int] = {Digest.of(lab.genesis): 0}
        self.answers: defaultdict[int, set[Digest]] = defaultdict(set)
        self.receipts: set[Digest] = set()
        self.asked_release = 0  # the newest one that the device went for
        self.reported_release = 0
        self._pieces: defaultdict[Digest, dict[int, bytes]] = defaultdict(dict)

    async def drive(self) -> None:
        draw = random.Random(1)
        while True:
            self.round += 1
            self.to_all(All.OFFER, slow_offer(self.lab, self.round, draw.choice((1, 1, 20))))
            began = time.monotonic()
            while not self._received() and time.monotonic() - began < ROUND_S:
                await asyncio.sleep(0.05)
            scale = np.float32(1 - self.round / 1000)
            weights = (np.frombuffer(self.lab.genesis, "<f4") * scale).tobytes()
            model = Digest.of(weights)
            self.blobs[model], self.released[model] = weights, self.round
            self.to_all(All.OFFER, b"")
            self.to_all(All.MODEL, self.lab.release(self.round, weights, self._received()))
            await asyncio.sleep(draw.uniform(0, 1.5))

    def _received(self) -> tuple[Digest, ...]:
        return tuple(self.answers.get(self.round, set()) & self.updates.keys())

    def _receive(self, topic: topics.Topic, payload: bytes) -> None:
        match topic:
            case UpTopic(kind=Up.OFFER):
                offer = TransferOffer.parse(payload)
                self.answers[offer.round].add(offer.transfer)
                indices = tuple(range(offer.chunks))
                self.down(Down.GRANT, Grant(offer.transfer, indices).to_bytes())
            case UpChunk(transfer=transfer, index=index):
                pieces = self._pieces[transfer]
                pieces[index] = payload
                whole = b"".join(pieces[i] for i in sorted(pieces))
                if Digest.of(whole) == transfer:
                    self._take(transfer, whole)
            case UpTopic(kind=Up.TELEMETRY):
                report = parse_report(payload, self.lab)
                self.reported_release = max(self.reported_release, self.released[report.model])
            case _:
                super()._receive(topic, payload)

    def _take(self, update: Digest, whole: bytes) -> None:
        (round_,) = (n for n, answers in self.answers.items() if update in answers)
        self.updates[update] = whole
        self.receipts.add(update)
        self.down(Down.RECEIPT, self.lab.update_receipt(round_, update))

    def _ask(self, ask: AskBlob | AskConsistency | AskInclusion) -> None:
        match ask:
            case AskBlob(blob=blob):
                self.asked_release = max(self.asked_release, self.released.get(blob, 0))
                super()._ask(ask)
            case AskConsistency(old, new):
                proof = Tree(self.lab.leaves[:new]).consistency_proof(old)
                self.down(Down.ANSWER, ConsistencyAnswer(old, new, proof).to_bytes())
            case _:
                super()._ask(ask)


def parse_report(payload: bytes, lab: Lab) -> Telemetry:
    return open_signed(Telemetry, payload, lab.key.verify_key)


def look(state: Path) -> Past:
    """What a device would start from."""
    store = Store(state)
    try:
        past = store.load()
        assert store.findings == []
        return past
    finally:
        store.close()


def verify(it: Rounds, state: Path) -> None:
    """All that was said before the kill is remembered, and nothing was said twice."""
    past = look(state)
    memory, fates = past.memory, {entry.round: entry for entry in past.journal}
    said = max(it.answers, default=0)
    for round_, answers in it.answers.items():
        assert len(answers) == 1, f"round {round_} was answered twice"
        if round_ > said - JOURNAL_KEPT:
            assert fates[round_].update in answers
    assert memory.answered_round >= said
    receipt = 0 if memory.receipt is None else memory.receipt.round
    assert receipt >= it.asked_release
    assert it.released.get(memory.active, 0) >= it.reported_release
    for entry in past.outbox:
        assert fates[entry.round].update == entry.update
        assert fates[entry.round].fate is Fate.WAITING
        assert it.answers.get(entry.round, {entry.update}) == {entry.update}
    link = state / "model/active"
    if link.is_symlink():
        slot = read_slot(link)
        assert slot.model in it.released
        slot.read()
        assert it.released[slot.model] >= it.released.get(memory.active, 0)
    for blob in past.blobs:
        assert Digest.of((state / "blobs" / str(blob)).read_bytes()) == blob


def test_what_was_seen_was_durable(with_broker: WithBroker, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)

    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        config.write_text(config.read_text() + "[serving]\nmin_examples = 1000\n")
        state = tmp_path / "state"
        kills = 0
        async with desk(broker, lab, Rounds) as it:
            driving = asyncio.create_task(it.drive())
            until_when = time.monotonic() + SECONDS
            while time.monotonic() < until_when:
                async with device(config) as process:
                    if draw.random() < 0.7:
                        lives = count(config, "connected")
                        await until(lambda lives=lives: count(config, "connected") > lives)
                        await asyncio.sleep(draw.expovariate(0.7))
                    else:  # while it starts
                        await asyncio.sleep(draw.uniform(0.1, 1.5))
                    assert process.poll() is None
                    process.kill()
                await asyncio.sleep(0.1)  # what is still on its way
                verify(it, state)
                kills += 1
            counted = count(config, "update counted")
            async with device(config):
                await until(lambda: count(config, "update counted") > counted)
            driving.cancel()
        verify(it, state)
        online = [s.session for s in it.states if s.status is Presence.ONLINE]
        assert online == sorted(online)
        assert kills > 2
        assert it.refused == 0
        odd = [line for line in logged(config) if line["event"] in ("odd transition", "storage")]
        assert odd == []

    try:
        with_broker(body)
    except BaseException:
        print(f"seed {seed}")
        raise

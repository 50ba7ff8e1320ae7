"""Plays the coordinator, the worker and the disk to one device's machine, without any of them."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from edge_runtime import events as ev
from edge_runtime.download import Part, Piece
from edge_runtime.machine import Machine
from edge_runtime.memory import Fate, RoundStats
from edge_runtime.state import Past
from qflare import topics
from qflare.effects import Publish
from qflare.messages import parse_any, update_leaf
from qflare.names import DeviceId, Digest
from qflare.proofs import Tree
from qflare.topics import All, AllChunk, AllTopic, Down, DownChunk, DownTopic, Up
from qflare.transfer import (
    AskBlob,
    AskConsistency,
    AskInclusion,
    ConsistencyAnswer,
    Grant,
    InclusionAnswer,
    TransferOffer,
)
from tests.edge_lab import DEVICE, FLEET, NOW, Lab, model

CHUNK = 64 * 1024
OTHER = DeviceId.parse("dev-2")
T = TypeVar("T")


class Shelf:
    """Where the pieces of one blob are put together."""

    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, piece: Piece | None) -> bytes | None:
        """Write a piece where it belongs; the blob if that was its last one."""
        if piece is None:
            return None
        assert piece.offset <= len(self.data)
        self.data[piece.offset :] = piece.data
        return bytes(self.data) if piece.last else None

    def part(self, chunk: int) -> Part:
        """What is found here after a restart."""
        count = len(self.data) // chunk
        return Part(chunk, count, hashlib.sha256(self.data[: count * chunk]))


class Disk:
    """What the effects made durable: enough to start again from."""

    def __init__(self) -> None:
        self.past = Past(session=0)
        self._shelves: defaultdict[Digest, Shelf] = defaultdict(Shelf)

    def perform(self, effect: ev.Effect) -> None:
        p = self.past
        match effect:
            case ev.SaveMemory(memory):
                self._set(memory=memory)
            case ev.SaveManifest(manifest, memory):
                self._set(manifest=manifest, memory=memory)
            case ev.Commit(entry, journal, _, memory, _):
                self._set(outbox=(*p.outbox, entry), journal=(*p.journal, journal), memory=memory)
            case ev.Settle(update, fate):
                kept = tuple(e for e in p.outbox if e.update != update or fate is Fate.WAITING)
                self._set(outbox=kept)
            case ev.KeepPart(blob, piece):
                self._shelves[blob].put(piece)
                self._set(parts=dict(p.parts) | {blob: self._shelves[blob].part(piece.chunk)})
            case ev.StoreBlob(blob, _):
                self._set(blobs=p.blobs | {blob})
            case ev.KeepBlobs(blobs):
                parts = {blob: part for blob, part in p.parts.items() if blob in blobs}
                self._set(blobs=p.blobs & blobs, parts=parts)

    def _set(self, **changes: object) -> None:
        self.past = replace(self.past, **changes)  # type: ignore[arg-type]

    def start(self, lab: Lab) -> Machine:
        self._set(session=self.past.session + 1)
        return lab.machine(self.past)


class Pilot:
    """One device and everybody around it. `said` and `done` hold what came out, in order."""

    def __init__(self, lab: Lab | None = None) -> None:
        self.lab = lab or Lab()
        self.disk = Disk()
        self.machine = self.disk.start(self.lab)
        self.now = NOW
        self.done: list[ev.Effect] = []
        self.blobs = {Digest.of(data): data for data in (self.lab.graph, self.lab.genesis)}
        self.manifest = self.lab.signed_manifest()

    # --- in ---

    def feed(self, event: ev.Event) -> list[ev.Effect]:
        effects = self.machine.handle(event, self.now)
        for effect in effects:
            self.disk.perform(effect)
        self.done += effects
        return effects

    def receive(self, topic: topics.Topic, payload: bytes, retained: bool = False) -> None:
        self.feed(ev.Received(topics.build(topic), payload, retained))

    def to_all(self, kind: All, payload: bytes, retained: bool = False) -> None:
        self.receive(AllTopic(FLEET, kind), payload, retained)

    def down(self, kind: Down, payload: bytes) -> None:
        self.receive(DownTopic(FLEET, DEVICE, kind), payload)

    def tick(self, seconds: float = 1.0) -> list[ev.Effect]:
        self.now += seconds
        return self.feed(ev.Tick())

    def connect(self) -> None:
        self.feed(ev.LinkUp(1_000_000))
        self.to_all(All.MANIFEST, self.manifest, retained=True)

    def restart(self) -> None:
        self.machine = self.disk.start(self.lab)
        self.done.clear()

    # --- out ---

    def said(self, kind: Up) -> list[bytes]:
        return [payload for topic, payload in self.published() if topic.endswith(f"/up/{kind}")]

    def published(self) -> Iterable[tuple[str, bytes]]:
        return ((e.topic, e.payload) for e in self.done if isinstance(e, Publish))

    def of(self, kind: type[T]) -> list[T]:
        return [e for e in self.done if isinstance(e, kind)]

    def notes(self, event: str) -> list[dict[str, object]]:
        return [dict(n.fields) for n in self.of(ev.Note) if n.event == event]

    def reasons(self) -> list[object]:
        return [fields["reason"] for fields in self.notes("refused")]

    # --- the honest others ---

    def serve(self) -> None:
        """Answer every blob and proof that was asked for, until nothing more is."""
        while asks := self.said(Up.ASK):
            self.done = [e for e in self.done if not (isinstance(e, Publish) and e.payload in asks)]
            for raw in asks:
                self._answer(parse_any(raw, AskBlob, AskConsistency, AskInclusion))

    def _answer(self, ask: AskBlob | AskConsistency | AskInclusion) -> None:
        match ask:
            case AskBlob(blob, indices):
                for i in indices:
                    part = self.blobs[blob][i * CHUNK : (i + 1) * CHUNK]
                    self.receive(DownChunk(FLEET, DEVICE, blob, i), part)
            case AskConsistency(old, new):
                proof = Tree(self.lab.leaves[:new]).consistency_proof(old)
                self.down(Down.ANSWER, ConsistencyAnswer(old, new, proof).to_bytes())
            case AskInclusion(round_, update):
                tree = Tree([update_leaf(DEVICE, update)])
                answer = InclusionAnswer(round_, update, 0, 1, tree.inclusion_proof(0))
                self.down(Down.ANSWER, answer.to_bytes())

    def train(self) -> ev.TrainingFinished:
        """What the worker gives for the last Train effect."""
        claims = self.of(ev.Train)[-1].claims
        update, residual = self.lab.update(claims)
        return ev.TrainingFinished(
            claims.round, claims.digest, update, residual, RoundStats(), b"personal"
        )

    def accept(self) -> Digest:
        """Grant and take every chunk of the last offer; return the update's digest."""
        offer = TransferOffer.parse(self.said(Up.OFFER)[-1])
        before = len(self.done)
        for i in range(offer.chunks):
            self.down(Down.GRANT, Grant(offer.transfer, (i,)).to_bytes())
        chunks = [e.payload for e in self.done[before:] if isinstance(e, Publish)]
        assert Digest.of(b"".join(chunks)) == offer.transfer
        self.down(Down.RECEIPT, self.lab.update_receipt(offer.round, offer.transfer))
        return offer.transfer

    def fan_out(self, weights: bytes) -> None:
        self.blobs[Digest.of(weights)] = weights
        self.receive(AllChunk(FLEET, Digest.of(weights), 0), weights)

    def evaluate(self) -> None:
        order = self.of(ev.Evaluate)[-1]
        self.feed(ev.Evaluated(order.model, 10, 7, 3.5, 0.25, 1000))

    def play_round(self, round_: int) -> Digest:
        """One whole honest round; the update's digest."""
        self.to_all(All.OFFER, self.lab.signed_offer(round_))
        self.serve()
        self.feed(self.train())
        update = self.accept()
        weights = model(round_)
        self.to_all(All.MODEL, self.lab.release(round_, weights, (update,)))
        self.fan_out(weights)
        self.evaluate()
        self.serve()
        return update


def connected() -> Pilot:
    """One that has a broker."""
    made = Pilot()
    made.connect()
    return made


def trained(pilot: Pilot, round_: int = 1) -> None:
    """Take it through a round's offer and training."""
    pilot.to_all(All.OFFER, pilot.lab.signed_offer(round_))
    pilot.serve()
    pilot.feed(pilot.train())

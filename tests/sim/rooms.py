"""The rooms' shells in memory; the device's is in edge.py.

Each performs its machine's effects in order, and can be killed after any of them; what it starts
from again is what it had persisted.
"""

from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator import events as co
from coordinator.database import Store
from coordinator.machine import CoordinatorMachine
from coordinator.requests import AdmittedUpdates, from_wire, to_wire
from enclave.events import Persist, Reply
from enclave.evidence.insecure_simulated import InsecureSimulated
from enclave.machine import EnclaveMachine, parse_request, refusal
from qflare.effects import Publish
from qflare.faults import PeerFault
from qflare.messages import PartyState, Presence
from qflare.topics import AllChunk, CoordinatorState, Down, DownChunk, DownTopic, build
from tests.sim.broker import COORDINATOR
from tests.sim.disks import BlobDisk, SpoolDisk
from tests.unit.coordinator_rig import FLEET, GRAPH, MEASUREMENT, WEIGHTS

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

BATCH_MAX = 64


class Killed(Exception):
    """The process ended here."""


class Room:
    """One process: `life` counts its starts, so that what an earlier life waited for is void."""

    name: str

    def __init__(self, sim: "Simulation") -> None:
        self.sim = sim
        self.life = 0
        self.alive = False
        self.linked = False

    def start(self) -> None:
        self.life += 1
        self.alive = True
        self._boot()
        self._tick(self.life)

    def kill(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self.unlink()

    def link(self) -> None:
        """Connect to the broker."""

    def unlink(self) -> None:
        """Lose the connection."""
        if self.linked:
            self.linked = False
            self.sim.broker.lose(self.name)

    def _boot(self) -> None:
        """Begin, from whatever the disk holds."""

    def _second(self) -> None:
        """A tick of this life."""

    def _tick(self, life: int) -> None:
        if self.alive and self.life == life:
            self._second()
            self.sim.after(1.0, lambda: self._tick(life))


class Enclave(Room):
    """The enclave behind its socket: one request, one reply, in order."""

    name = "enclave"

    def __init__(self, sim: "Simulation") -> None:
        super().__init__(sim)
        self.disk: bytes | None = None
        self.refused: Counter[str] = Counter()
        self.machine: EnclaveMachine

    def _boot(self) -> None:
        self.machine = EnclaveMachine(
            FLEET,
            self.sim.world.owner.verify_key,
            InsecureSimulated(MEASUREMENT, bytes(32)),
            self.sim.random.randbytes,
            self.disk,
            insecure_seed=1,
        )
        self.sim.coordinator.feed(co.EnclaveUp())

    def kill(self) -> None:
        super().kill()
        self.sim.coordinator.feed(co.EnclaveDown())

    def answer(self, frame: bytes) -> bytes | None:
        """The reply to a frame; None if the enclave died over it."""
        if not self.alive:
            return None
        reply = None
        try:
            try:
                effects = self.machine.handle(parse_request(frame))
            except PeerFault as fault:
                effects = [Reply(refusal(fault))]
            for effect in effects:
                match effect:
                    case Persist(sealed):
                        self.disk = sealed
                    case Reply(message):
                        reply = message.to_bytes()
                        self.refused[getattr(message, "reason", "")] += 1
                self.sim.performed(self)
        except Killed:
            self.sim.kill(self)
            return None
        return reply


class Coordinator(Room):
    """The coordinator with the real database."""

    name = COORDINATOR

    def __init__(self, sim: "Simulation") -> None:
        super().__init__(sim)
        self.store = Store(Path(":memory:"))
        self.models = BlobDisk([GRAPH, WEIGHTS])
        self.spool = SpoolDisk()
        self.logs: list[co.Log] = []
        self.refusals: Counter[str] = Counter()  # of all lives
        self._inbox: deque[co.Event] = deque()
        self._awake = False
        self.machine: CoordinatorMachine

    def _boot(self) -> None:
        self._inbox.clear()
        self.machine = CoordinatorMachine(self.sim.settings, self.store.load(), self.sim.now)
        self.spool.restart(self.machine.kept_updates())
        self.link()
        if self.sim.enclave.alive:
            self.feed(co.EnclaveUp())

    def kill(self) -> None:
        if self.alive:
            self.refusals += self.machine.book.refusals
        super().kill()

    def link(self) -> None:
        if self.alive and not self.linked:
            self.linked = True
            session = self.sim.settings.session + self.life
            topic = build(CoordinatorState(FLEET))
            lost, online = (
                PartyState(status, session, "1", "").to_bytes()
                for status in (Presence.LOST, Presence.ONLINE)
            )
            self.feed(co.LinkUp())
            self.sim.broker.connect(self.name, self._deliver, Publish(topic, lost, True))
            self.sim.broker.publish(self.name, topic, online, retain=True)

    def unlink(self) -> None:
        super().unlink()
        self.feed(co.LinkDown())

    def _deliver(self, topic: str, payload: bytes, retained: bool) -> None:
        self.feed(co.Received(topic, payload, retained))

    def _second(self) -> None:
        self.feed(co.Tick())

    def feed(self, event: co.Event) -> None:
        """Put an event into the queue; it is handled together with whatever is there then."""
        if not self.alive:
            return
        self._inbox.append(event)
        if not self._awake:
            self._awake = True
            self.sim.after(0.0, self._work)

    def _work(self) -> None:
        self._awake = False
        if not self.alive or not self._inbox:
            return
        batch = [self._inbox.popleft() for _ in range(min(BATCH_MAX, len(self._inbox)))]
        if self._inbox:
            self._awake = True
            self.sim.after(0.0, self._work)
        effects: list[co.Effect] = []
        for event in batch:
            effects += self.machine.handle(event, self.sim.now)
        try:
            writes = [effect.write for effect in effects if isinstance(effect, co.Persist)]
            if writes:
                self.store.commit(writes)
                self.sim.performed(self)
            for effect in effects:
                self._perform(effect)
                if not isinstance(effect, co.Log | co.Persist):
                    self.sim.performed(self)
        except Killed:
            self.sim.kill(self)

    def _perform(self, effect: co.Effect) -> None:
        match effect:
            case Publish(topic, payload, retain):
                if self.linked:
                    self.sim.broker.publish(self.name, topic, payload, retain)
            case co.AskEnclave(request):
                self._ask(request)
            case co.StartTransfer(device, transfer, size):
                self.spool.start(device, transfer, size)
            case co.WriteChunk(device, transfer, offset, data):
                self.spool.write(device, transfer, offset, data)
            case co.FinishTransfer(device, transfer):
                whole = self.spool.finish(device, transfer)
                if whole is not None:
                    self.feed(co.TransferFinished(device, transfer, whole))
            case co.DropUpdate(device, transfer):
                self.spool.drop(device, transfer)
            case co.SendBlob(to, blob, indices):
                for i in indices:
                    place = AllChunk(FLEET, blob, i)
                    topic = build(place if to is None else DownChunk(FLEET, to, blob, i))
                    self._perform(Publish(topic, self.models.read_chunk(blob, i)))
                if to is None:
                    self.feed(co.FannedOut(blob))
            case co.AnswerInclusion(device, round_, update):
                answer = AdmittedUpdates(round_, self.store.admitted(round_)).answer(device, update)
                if answer:
                    topic = build(DownTopic(FLEET, device, Down.ANSWER))
                    self._perform(Publish(topic, answer.to_bytes()))
            case co.KeepBlobs(digests):
                self.models.keep(digests)
            case co.Log():
                self.logs.append(effect)

    def _ask(self, request: co.EnclaveRequest) -> None:
        sim, enclave = self.sim, self.sim.enclave
        if not enclave.alive:
            return
        frame = to_wire(request, sim.settings.manifest_bytes, self.models, self.spool.read)
        lives = (self.life, enclave.life)

        def arrive() -> None:
            if enclave.life != lives[1]:
                return
            reply = enclave.answer(frame)
            if reply is not None and self.alive and (self.life, enclave.life) == lives:
                self.feed(co.EnclaveReplied(request, from_wire(reply, self.models), 0.001))

        sim.after(0.001, arrive)

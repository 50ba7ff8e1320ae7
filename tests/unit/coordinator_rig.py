"""A coordinator on a real database and spool, with a fleet and an enclave made of plain objects.

The link and the socket are a list of events. The enclave here signs real receipts and answers
repeated requests as the real one does, but opens nothing: it is there for the order of events.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from coordinator.book import RunSettings
from coordinator.database import Store
from coordinator.events import (
    AdmitUpdate,
    AnswerInclusion,
    AskEnclave,
    ConfigureEnclave,
    DropUpdate,
    Effect,
    EnclaveReplied,
    EnclaveReply,
    EnclaveRequest,
    EnclaveUp,
    Event,
    FannedOut,
    FinishTransfer,
    KeepBlobs,
    LinkUp,
    Log,
    OpenEnclaveRound,
    Persist,
    Received,
    ReleasedModel,
    ReleaseRound,
    SendBlob,
    StartTransfer,
    Tick,
    TransferFinished,
    WriteChunk,
)
from coordinator.machine import CoordinatorMachine
from coordinator.models import ModelStore
from coordinator.requests import AdmittedUpdates
from coordinator.spool import Spool
from coordinator.transfers import Limits
from qflare.cohort import choose
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT, Aead
from qflare.effects import Publish
from qflare.enclave_wire import Admitted, Refused, RoundOpened, Standing
from qflare.envelope import open_signed, seal_update, sign
from qflare.faults import Reason
from qflare.merkle import root
from qflare.messages import (
    KIB,
    ZERO,
    DeviceHello,
    EnclaveClaims,
    Evidence,
    ModelReady,
    PartyState,
    Presence,
    RoundOffer,
    RoundReceipt,
    Telemetry,
    UpdatePayload,
    UpdateReceipt,
    cohort_digest,
    update_leaf,
)
from qflare.names import DeviceId, Digest, FleetId
from qflare.policy import (
    AppraisalPolicy,
    Genesis,
    OwnerManifest,
    PolicyBounds,
    ReferenceValue,
    RoundPolicy,
)
from qflare.schedule import Schedule
from qflare.topics import (
    AllTopic,
    Down,
    DownTopic,
    StateTopic,
    Topic,
    Up,
    UpChunk,
    UpTopic,
    build,
    parse,
)
from qflare.transfer import Grant, InclusionAnswer, TransferOffer
from qflare.verifiers.simulated import SimulatedReport

FLEET = FleetId.parse("demo")
MEASUREMENT = Digest.of(b"a fake enclave")
START = 1_800_000_000.0
WEIGHTS = bytes(4 * 100)
GRAPH = b"graph"
CLASSES = 2
TALLIES = (6, 3, 4, 2, 0, 1, 9000, 7000)  # of each device that is made up here


class Crash(Exception):
    """The process was killed here."""


@dataclass
class World:
    """What the owner, the CA and the keys have in common; made once, as keys are slow to make."""

    owner: SigningKey = field(default_factory=lambda: SigningKey.generate(DEFAULT))
    coordinator: SigningKey = field(default_factory=lambda: SigningKey.generate(DEFAULT))
    enclave: SigningKey = field(default_factory=lambda: SigningKey.generate(DEFAULT))
    identities: dict[str, tuple[SigningKey, bytes]] = field(default_factory=dict)
    start: float = START  # Unix seconds, from when on certificates are valid

    def __post_init__(self) -> None:
        self.began = datetime.fromtimestamp(self.start, UTC)
        self.ca_key, self.ca = issue_ca(FLEET, DEFAULT, self.began, 100)
        genesis = Genesis(Digest.of(GRAPH), Digest.of(WEIGHTS), (("w", (100,)),), CLASSES)
        self.manifest = OwnerManifest(
            fleet=FLEET,
            version=1,
            issued=0,
            expires=2**40,
            suite=DEFAULT.name,
            coordinator_key=self.coordinator.verify_key.raw,
            device_cas=(self.ca,),
            revoked=(),
            genesis=genesis,
            bounds=PolicyBounds((DEFAULT.name,), ("q8",), 1, 10.0, 1000),
            reference_values=(ReferenceValue("insecure_simulated", MEASUREMENT),),
            appraisal=AppraisalPolicy(tier=0),
            allow_insecure=True,
        )
        self.policy = RoundPolicy(
            suite=DEFAULT.name,
            codec="q8",
            min_cohort=2,
            max_cohort=50,
            clip_norm=1.0,
            weight_cap=100,
            deadline_s=60,
            schedule=Schedule(10, 1, 0.1, 0.5, 0.0, 1.0),
        )

    def identity(self, name: str) -> tuple[SigningKey, bytes]:
        """A device's key and certificate."""
        if name not in self.identities:
            key = SigningKey.generate(DEFAULT)
            device = DeviceId.parse(name)
            der = issue_device(self.ca_key, self.ca, device, key.verify_key, self.began, 50)
            self.identities[name] = (key, der)
        return self.identities[name]

    def settings(self, **changes: object) -> RunSettings:
        """Two rounds of chunks so small that every update has several."""
        sizes = {Digest.of(part): len(part) for part in (GRAPH, WEIGHTS)}
        made = RunSettings(
            fleet=FLEET,
            key=self.coordinator,
            manifest=self.manifest,
            manifest_bytes=sign(self.manifest, self.owner),
            policy=self.policy,
            genesis_sizes=sizes,
            update_ceiling=64 * KIB,
            session=1,
            rounds=2,
            limits=Limits(window=2, credit=6, open_max=3, regrant_s=5.0),
        )
        return replace(made, **changes)  # type: ignore[arg-type]


class FakeEnclave:
    """Remembers what it opened, admitted and released, like one with a sealed state."""

    def __init__(self, world: World, models: ModelStore) -> None:
        self.world, self.models = world, models
        self.opened: tuple[OpenEnclaveRound, RoundOpened] | None = None
        self.highest = 0
        self.admitted: dict[DeviceId, Digest] = {}
        self.released: tuple[int, ReleasedModel] | None = None
        self.epoch = 0
        self.step = 0
        self.refuse: dict[DeviceId, Reason] = {}
        self.history: list[dict[DeviceId, Digest]] = []

    def answer(self, request: EnclaveRequest) -> EnclaveReply:
        match request:
            case ConfigureEnclave():
                return Standing(
                    provider="insecure_simulated",
                    measurement=MEASUREMENT,
                    manifest=self.world.manifest.digest,
                    open_round=self.highest if self.opened else 0,
                    admitted=len(self.admitted),
                    released_round=self.released[0] if self.released else 0,
                )
            case OpenEnclaveRound():
                return self._open(request)
            case AdmitUpdate(round_, device, _, update):
                if self.opened is None or round_ != self.highest:
                    return Refused(Reason.ROUND_CLOSED, "no open round")
                if device in self.refuse:
                    return Refused(self.refuse[device], "as told")
                again = self.admitted.get(device) == update
                if device in self.admitted and not again:
                    return Refused(Reason.DUPLICATE, "another update of this device")
                self.admitted[device] = update
                return Admitted(device, update, again)
            case ReleaseRound(round_):
                return self._release(round_)

    def _open(self, request: OpenEnclaveRound) -> EnclaveReply:
        if self.opened and request.round == self.highest:
            same = self.opened[0] == request
            return self.opened[1] if same else Refused(Reason.EQUIVOCATION, "opened otherwise")
        if request.round <= self.highest:
            return Refused(Reason.WRONG_ROUND, "spent")
        receipt = ZERO
        if request.predecessor:
            key = self.world.enclave.verify_key
            receipt = open_signed(RoundReceipt, request.predecessor.receipt, key).digest
        self.epoch += 1
        cohort = ()
        if request.candidates:
            cohort = choose(ZERO, request.candidates, request.policy.max_cohort)
        claims = EnclaveClaims(
            fleet=FLEET,
            suite=DEFAULT.name,
            manifest=self.world.manifest.digest,
            round=request.round,
            opened_at=request.opened_at,
            epoch=self.epoch,
            step=self.step + 1,
            policy=request.policy.digest,
            cohort=cohort_digest(cohort),
            model=request.weights,
            state=request.state,
            receipt=receipt,
            kem_key=KemPrivateKey.generate(DEFAULT).public.raw,
            signing_key=self.world.enclave.verify_key.raw,
        )
        report = SimulatedReport(MEASUREMENT, claims.report_data)
        reply = RoundOpened(cohort, claims, Evidence("insecure_simulated", report.to_bytes()))
        self.opened, self.highest, self.admitted = (request, reply), request.round, {}
        return reply

    def _release(self, round_: int) -> EnclaveReply:
        if self.released and self.released[0] == round_:
            return self.released[1]
        if self.opened is None or round_ != self.highest:
            return Refused(Reason.ROUND_CLOSED, "not open")
        request, reply = self.opened
        if len(self.admitted) < request.policy.min_cohort:
            self.opened = None
            return Refused(Reason.BELOW_MIN_COHORT, f"{len(self.admitted)}")
        self.step += 1
        weights = bytes([self.step]) * 400
        state = b"velocity %d" % self.step
        receipt = RoundReceipt(
            fleet=FLEET,
            manifest=reply.claims.manifest,
            round=round_,
            epoch=reply.claims.epoch,
            step=reply.claims.step,
            claims=reply.claims.digest,
            policy=reply.claims.policy,
            previous_receipt=reply.claims.receipt,
            previous_model=reply.claims.model,
            model=Digest.of(weights),
            state=Digest.of(state),
            admitted=len(self.admitted),
            refused=(),
            total_weight=1,
            updates=root(update_leaf(d, self.admitted[d]) for d in sorted(self.admitted)),
            seed=ZERO,
            tallies=tuple(len(self.admitted) * n for n in TALLIES),
        )
        released = ReleasedModel(
            sign(receipt, self.world.enclave),
            self.models.put(weights),
            len(weights),
            self.models.put(state),
            len(state),
        )
        self.history.append(dict(self.admitted))
        self.released, self.opened = (round_, released), None
        return released


@dataclass
class FakeDevice:
    """Answers each offer once, and keeps its update until a receipt comes."""

    world: World
    name: DeviceId
    say: Callable[[Topic, bytes], None]
    online: bool = True
    answered: set[int] = field(default_factory=set)
    outbox: dict[Digest, tuple[int, bytes]] = field(default_factory=dict)
    receipts: dict[Digest, list[UpdateReceipt]] = field(default_factory=dict)
    sent: list[tuple[int, Digest]] = field(default_factory=list)
    chunk: int = KIB

    def greet(self) -> None:
        """What a device says at every connection."""
        self.say(StateTopic(FLEET, self.name), PartyState(Presence.ONLINE, 7, "1", "").to_bytes())
        _, der = self.world.identity(self.name)
        self.say(UpTopic(FLEET, self.name, Up.HELLO), DeviceHello(der, 7).to_bytes())
        self.offer_again()

    def lose(self) -> None:
        """What the broker says for a device that is gone."""
        self.online = False
        self.say(StateTopic(FLEET, self.name), PartyState(Presence.LOST, 7, "1", "").to_bytes())

    def offer_again(self) -> None:
        """Offer what is in the outbox."""
        for digest, (round_, data) in self.outbox.items():
            offer = TransferOffer(digest, round_, len(data), self.chunk)
            self.say(UpTopic(FLEET, self.name, Up.OFFER), offer.to_bytes())

    def hear(self, topic: Topic, payload: bytes) -> None:
        """Whatever the coordinator publishes."""
        if not self.online:
            return
        match topic:
            case AllTopic(kind=kind) if kind == "offer" and payload:
                self._answer(open_signed(RoundOffer, payload, self.world.coordinator.verify_key))
            case AllTopic(kind=kind) if kind == "hello":
                self.greet()
            case AllTopic(kind=kind) if kind == "model":
                self._report(open_signed(ModelReady, payload, self.world.coordinator.verify_key))
            case DownTopic(device=device, kind=Down.GRANT) if device == self.name:
                self._send(Grant.parse(payload))
            case DownTopic(device=device, kind=Down.RECEIPT) if device == self.name:
                key = self.world.coordinator.verify_key
                receipt = open_signed(UpdateReceipt, payload, key)
                self.receipts.setdefault(receipt.update, []).append(receipt)
                self.outbox.pop(receipt.update, None)

    def _answer(self, offer: RoundOffer) -> None:
        if offer.round in self.answered or (offer.cohort and self.name not in offer.cohort):
            return
        self.answered.add(offer.round)
        data = self.update(offer.claims)
        self.outbox[Digest.of(data)] = (offer.round, data)
        self.sent.append((offer.round, Digest.of(data)))
        self.offer_again()

    def update(self, claims: EnclaveClaims) -> bytes:
        """A sealed update of some kilobytes."""
        key, der = self.world.identity(self.name)
        payload = UpdatePayload(3, b"encoded" * 100, TALLIES)
        return seal_update(payload, claims, self.name, Digest.of(der), key, Aead.AES_256_GCM)

    def _report(self, ready: ModelReady) -> None:
        key, _ = self.world.identity(self.name)
        receipt = open_signed(RoundReceipt, ready.receipt, self.world.enclave.verify_key)
        report = Telemetry(
            FLEET, self.name, receipt.round, receipt.model, 10, 8, 2.5, (("train", 1.0),), ()
        )
        self.say(UpTopic(FLEET, self.name, Up.TELEMETRY), sign(report, key))

    def _send(self, grant: Grant) -> None:
        if grant.transfer not in self.outbox:
            return
        _, data = self.outbox[grant.transfer]
        for i in grant.indices:
            part = data[i * self.chunk : (i + 1) * self.chunk]
            self.say(UpChunk(FLEET, self.name, grant.transfer, i), part)


class Rig:
    """All of it together; `kill_after` performed effects the coordinator dies."""

    def __init__(self, world: World, directory: Path, devices: int = 3, **changes: object) -> None:
        self.world, self.directory = world, directory
        self.settings = world.settings(**changes)
        self.models = ModelStore(directory / "models")
        self.models.put(WEIGHTS)
        self.enclave = FakeEnclave(world, self.models)
        self.now = START
        self.events: deque[Event] = deque()
        self.published: list[tuple[Topic, bytes]] = []
        self.retained: dict[str, bytes] = {}
        self.performed = 0
        self.kill_after: int | None = None
        self.lives: deque[int] = deque()  # how many effects each life after a kill lasts
        self.kills = 0
        self.logs: Counter[str] = Counter()
        self.asked: list[EnclaveRequest] = []
        self.sent_blobs: list[SendBlob] = []
        self.answers: list[InclusionAnswer | None] = []
        self.devices = {
            name: FakeDevice(world, name, self._from_device)
            for name in (DeviceId.parse(f"dev-{i}") for i in range(devices))
        }
        self.store: Store | None = None
        self.start()

    def _from_device(self, topic: Topic, payload: bytes) -> None:
        self.events.append(Received(build(topic), payload))

    def start(self) -> None:
        """Start, or start again: from what is on the disk."""
        if self.store:
            self.store.close()
        self.events.clear()
        self.spool = Spool(self.directory / "spool")
        self.store = Store(self.directory / "coordinator.db")
        self.machine = CoordinatorMachine(self.settings, self.store.load(), self.now)
        self.spool.keep(self.machine.kept_updates())
        self.events += [LinkUp(), EnclaveUp()]

    def step(self) -> None:
        """Handle one batch of at most three events."""
        batch = [self.events.popleft() for _ in range(min(3, len(self.events)))]
        effects: list[Effect] = []
        for event in batch:
            effects += self.machine.handle(event, self.now)
        writes = [effect.write for effect in effects if isinstance(effect, Persist)]
        assert self.store is not None
        if writes:
            self.store.commit(writes)
            self._count()
        for effect in effects:
            if not isinstance(effect, Persist | Log):
                self._perform(effect)
                self._count()
            elif isinstance(effect, Log):
                self.logs[effect.event] += 1

    def _count(self) -> None:
        self.performed += 1
        if self.kill_after is not None and self.performed >= self.kill_after:
            self.kill_after = None
            raise Crash

    def run(self, until: Callable[[], bool], ticks: int = 200) -> None:
        """Let time pass until something is so; a killed coordinator is started again."""
        for _ in range(ticks):
            while self.events and not until():
                try:
                    self.step()
                except Crash:
                    self.kills += 1
                    if self.lives:
                        self.kill_after = self.performed + self.lives.popleft()
                    self.start()
            if until():
                return
            self.now += 1.0
            self.events.append(Tick())
            if int(self.now) % 3 == 0:
                for device in self.devices.values():
                    if device.online:
                        device.offer_again()
        book = self.machine.book
        raise AssertionError(f"it never came: {book.phase} {book.round} {self.logs}")

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Publish(topic, payload, retain):
                if retain:
                    self.retained[topic] = payload
                parsed = parse(topic)
                self.published.append((parsed, payload))
                for device in self.devices.values():
                    device.hear(parsed, payload)
            case AskEnclave(request):
                self.asked.append(request)
                if isinstance(request, AdmitUpdate):
                    self.spool.read(request.device, request.update)
                self.events.append(EnclaveReplied(request, self.enclave.answer(request), 0.01))
            case StartTransfer(device, transfer, size):
                self.spool.start(device, transfer, size)
            case WriteChunk(device, transfer, offset, data):
                self.spool.write(device, transfer, offset, data)
            case FinishTransfer(device, transfer):
                whole = self.spool.finish(device, transfer)
                if whole is not None:
                    self.events.append(TransferFinished(device, transfer, whole))
            case DropUpdate(device, transfer):
                self.spool.drop(device, transfer)
            case SendBlob(None, blob, _):
                self.events.append(FannedOut(blob))
            case SendBlob():
                self.sent_blobs.append(effect)
            case KeepBlobs(digests):
                self.models.keep(digests)
            case AnswerInclusion(device, round_, update):
                assert self.store is not None
                proofs = AdmittedUpdates(round_, self.store.admitted(round_))
                self.answers.append(proofs.answer(device, update))

    def done(self) -> bool:
        """All rounds that were asked for are released."""
        return self.machine.book.phase == "done"

"""What the parts of the device's machine share: what it knows, and where its effects go."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from edge_runtime.acceptance import Bounds
from edge_runtime.appraiser import Appraiser
from edge_runtime.download import Downloads, Part
from edge_runtime.events import Effect, Note, Settle
from edge_runtime.memory import Fate, JournalEntry, Memory, OutboxEntry, RoundStats
from edge_runtime.sealing import Identity
from edge_runtime.traffic import Bucket, Traffic
from edge_runtime.trusted_round import Trust
from edge_runtime.upload import Uploads
from qflare import topics
from qflare.crypto.keys import VerifyKey
from qflare.effects import Publish
from qflare.faults import PeerFault
from qflare.messages import CHUNK_MAX, KIB, ZERO, Message
from qflare.names import DeviceId, Digest, FleetId
from qflare.policy import OwnerManifest

GRAPH_MAX = 32 * 1024 * KIB  # bytes of a graph; weights are as long as the model
JOURNAL_KEPT = 16
OUTBOX_KEPT = 4  # updates that wait; there are one or two unless nobody ever answers
# A disk that refused a blob will do so again in the next second, and each try is traffic.
LOST_FIRST_S, LOST_LAST_S = 10.0, 600.0


@dataclass(frozen=True)
class Past:
    """What the store still knows when a device starts."""

    memory: Memory = field(default_factory=Memory)
    manifest: bytes | None = field(default=None, repr=False)
    outbox: tuple[OutboxEntry, ...] = ()
    journal: tuple[JournalEntry, ...] = ()  # of the last rounds
    blobs: frozenset[Digest] = frozenset()
    parts: Mapping[Digest, Part] = field(default_factory=dict)  # of blobs that were being fetched
    session: int = 1  # of this run; higher than that of every earlier one
    refused: frozenset[Digest] = frozenset()  # models that aren't to become active here


@dataclass(frozen=True)
class Settings:
    """What the machine is told by its configuration."""

    fleet: FleetId
    identity: Identity
    certificate: bytes = field(repr=False)  # DER, the device's own
    owner_key: VerifyKey
    chunk: int = CHUNK_MAX
    up_rate: float = 0.0  # bytes per second that chunks may take; 0 is no limit
    down_rate: float = 0.0
    bounds: Bounds = field(default_factory=Bounds)  # of how much worse a new model may be here
    serving: bool = True  # applications use the model, from the genesis model on
    notice: str = ""  # what the operator should do about this device


class State:
    """Shared by machine.py, rounds.py, releases.py and delivery.py."""

    def __init__(
        self,
        settings: Settings,
        past: Past,
        clock: Callable[[], float],
        today: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.session = past.session
        self.counters: Counter[str] = Counter()
        self.trust = Trust(settings.owner_key, settings.fleet, past.memory)
        self.appraiser = Appraiser(self.trust, settings.identity.device, clock, today)
        self.downloads = Downloads(past.parts)
        self.uploads = Uploads(past.outbox)
        self.traffic = Traffic(Bucket(settings.up_rate), Bucket(settings.down_rate))
        self.journal = {entry.round: entry for entry in past.journal}
        self.release = ZERO, b""  # the newest receipt that was verified, and the words that said it
        self.have = set(past.blobs)
        self._lost: dict[Digest, tuple[float, float]] = {}  # when a blob was, and how long to wait
        self.online = False
        self.held = ""  # why training is paused
        self.updating = ""  # how updates of QFLARE stand
        self.max_payload = CHUNK_MAX
        self.now = 0.0
        self.last_error: tuple[float, str] | None = None  # when, and what
        self.out: list[Effect] = []

    @property
    def device(self) -> DeviceId:
        return self.settings.identity.device

    @property
    def memory(self) -> Memory:
        return self.trust.memory

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self.trust.memory = memory

    @property
    def manifest(self) -> OwnerManifest:
        return self.trust.manifest

    def emit(self, effect: Effect) -> None:
        self.out.append(effect)

    def note(self, level: str, event: str, **fields: str | int | float) -> None:
        """A line for the log; the last error also goes into the device's report."""
        if level == "error":
            said = [str(fields[key]) for key in ("detail", "reason") if fields.get(key)]
            self.last_error = self.now, ": ".join([event, *said])
        self.emit(Note(level, event, tuple(fields.items())))

    def refuse(self, what: str, fault: PeerFault, level: str = "warning") -> None:
        """Something from outside broke a rule: say so, count it, go on."""
        self.counters["refused"] += 1
        self.counters[f"refused_{fault.reason.value}"] += 1
        self.note(level, "refused", what=what, reason=fault.reason.value, detail=fault.detail)

    def publish(self, topic: topics.Topic, payload: bytes, retain: bool = False) -> None:
        """Say something if there is a connection; whatever matters is said again later."""
        if self.online:
            self.emit(Publish(topics.build(topic), payload, retain))

    def say(self, kind: topics.Up, message: Message | bytes) -> None:
        """Publish on this device's own `up` topic."""
        payload = message if isinstance(message, bytes) else message.to_bytes()
        self.publish(topics.UpTopic(self.settings.fleet, self.device, kind), payload)

    def lacking(self, blobs: Iterable[Digest]) -> list[Digest]:
        return [blob for blob in blobs if blob not in self.have]

    def want_model(self, weights: Digest, patience: float = 0.0) -> bool:
        """Fetch what it takes to run these weights; is all of it here?"""
        genesis = self.manifest.genesis
        ceilings: Mapping[Digest, int] = {
            weights: 4 * genesis.size,
            genesis.graph: GRAPH_MAX,
        }
        missing = self.lacking(ceilings)
        for blob in missing:
            lost, pause = self._lost.get(blob, (self.now, 0.0))
            wait = max(patience if blob == weights else 0.0, lost + pause - self.now)
            resumed = self.downloads.want(blob, ceilings[blob], self.now, wait)
            if resumed:
                self.note("info", "download resumed", blob=blob.short, bytes=resumed)
        return not missing

    def size_of(self, blob: Digest) -> int:
        """Bytes of a blob, 0 if that isn't known: all weights are as long as one another."""
        genesis = self.manifest.genesis
        return 0 if blob == genesis.graph else 4 * genesis.size

    def lose(self, blob: Digest) -> None:
        """A blob could not be kept or read: fetch it again, after longer each time."""
        self.have.discard(blob)
        self.downloads.drop(blob)
        lost, pause = self._lost.get(blob, (self.now, 0.0))
        if self.now < lost + pause:  # chunks that were on their way
            return
        again = pause and self.now < lost + pause + LOST_LAST_S
        self._lost[blob] = self.now, min(2 * pause, LOST_LAST_S) if again else LOST_FIRST_S

    def ask_for_blobs(self) -> None:
        """Ask for the chunks that are due."""
        if self.online and not self.traffic.quiet:
            for ask in self.downloads.asks(self.now, self.traffic.down):
                self.say(topics.Up.ASK, ask)

    def keep_journal(self, entry: JournalEntry) -> None:
        """Remember a round's outcome; the oldest rounds are forgotten."""
        self.journal[entry.round] = entry
        for old in sorted(self.journal)[:-JOURNAL_KEPT]:
            del self.journal[old]

    @property
    def learned(self) -> RoundStats | None:
        """Of the last update that counted, or may yet."""
        made = [e for e in self.journal.values() if e.fate not in (Fate.REFUSED, Fate.OVERTAKEN)]
        return max(made, key=lambda entry: entry.round).stats if made else None

    def overtake(self, entry: OutboxEntry, **why: int) -> None:
        """An update can't count any more: nobody is offered it again."""
        self.uploads.drop(entry.update)
        old = self.journal.get(entry.round)
        if old is not None:
            self.keep_journal(replace(old, fate=Fate.OVERTAKEN))
        self.emit(Settle(entry.update, Fate.OVERTAKEN, old.stats if old else RoundStats()))
        self.counters["updates_overtaken"] += 1
        self.note("warning", "update overtaken", round=entry.round, **why)

    @property
    def chunk(self) -> int:
        """The chunk size of a new transfer, bytes."""
        return max(KIB, min(self.settings.chunk, CHUNK_MAX, self.max_payload))

"""What the machine's parts share: settings, the open round, and what was learned so far."""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum

from coordinator.acceptance import Terms
from coordinator.database import Snapshot
from coordinator.database.store import REMEMBERED
from coordinator.events import OpenEnclaveRound
from coordinator.health import EnclaveHealth
from coordinator.ledger import Ledger
from coordinator.limiter import Limiter
from coordinator.registry import Registry
from coordinator.transfers import Limits, Transfers
from qflare.crypto.keys import SigningKey
from qflare.enclave_wire import Predecessor
from qflare.envelope import sign
from qflare.messages import ReceiptStatus, RoundOffer, UpdateReceipt
from qflare.names import DeviceId, Digest, FleetId
from qflare.policy import OwnerManifest, RoundPolicy
from qflare.tallies import Tallies
from qflare.topics import Down, DownTopic, build


class Phase(StrEnum):
    """Where the round stands."""

    WAITING = "waiting"  # for the broker, the enclave, or devices
    OPENING = "opening"  # the enclave was asked to open
    COLLECTING = "collecting"  # the offer is out
    RELEASING = "releasing"  # nothing more is accepted; the enclave admits the rest and releases
    PUBLISHING = "publishing"  # the model is durable and goes out
    DONE = "done"  # all rounds that were asked for


@dataclass(frozen=True)
class RunSettings:
    """What a machine is told once."""

    fleet: FleetId
    key: SigningKey
    manifest: OwnerManifest
    manifest_bytes: bytes = field(repr=False)  # signed
    policy: RoundPolicy
    genesis_sizes: dict[Digest, int]  # graph, weights
    update_ceiling: int  # bytes
    session: int
    rounds: int = 0
    cohort: int = 0
    expect_devices: int = 0
    wait_s: float = 60.0
    pause_s: float = 0.0
    keep_models: int = 50
    limits: Limits = field(default_factory=Limits)


@dataclass
class Accepted:
    """An update that the open round has taken in."""

    digest: Digest
    size: int
    status: str = "accepted"  # admitted, refused


@dataclass
class Round:
    """The newest round, as long as it is neither released nor abandoned."""

    request: OpenEnclaveRound
    opening_at: float
    offer: RoundOffer | None = None
    offer_bytes: bytes = b""
    closes_at: float = 0.0
    terms: Terms | None = None
    updates: dict[DeviceId, Accepted] = field(default_factory=dict)
    done: set[DeviceId] = field(default_factory=set)  # admitted or refused
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def number(self) -> int:
        return self.request.round

    @property
    def admitted(self) -> int:
        return sum(u.status == "admitted" for u in self.updates.values())

    @property
    def pending(self) -> int:
        """Accepted updates on which the enclave hasn't spoken."""
        return sum(u.status == "accepted" for u in self.updates.values())


@dataclass(frozen=True)
class LastRelease:
    """The model that the next round starts from."""

    number: int
    predecessor: Predecessor
    model: Digest
    state: Digest
    ready: bytes = field(repr=False)
    tallies: Tallies  # of the round that released it


@dataclass(frozen=True)
class Known:
    """What became of an update; "" is accepted."""

    round: int
    refused: str


class Book:
    """Everything in memory; all of it can be read back from the database."""

    def __init__(self, settings: RunSettings, snapshot: Snapshot) -> None:
        self.settings = settings
        self.registry = Registry()
        self.limiter = Limiter()
        self.transfers = Transfers(settings.limits)
        self.ledger = (
            Ledger(snapshot.leaves, snapshot.head) if snapshot.head else Ledger(snapshot.leaves)
        )
        self.enclave = EnclaveHealth()
        self.phase = Phase.WAITING
        self.round: Round | None = None
        self.last: LastRelease | None = None
        self.last_number = snapshot.last.number if snapshot.last else 0
        self.models = list(snapshot.models)
        self.released = snapshot.released_count
        self.abandoned = snapshot.abandoned_count
        self.refusals: Counter[str] = Counter()
        self.bytes_up = 0  # of updates, since this process began
        self.bytes_down = 0  # of models and other blobs, to each device that gets them
        self.link_up = False
        self.reports = {device: (n, k, s) for device, n, k, s in snapshot.telemetry}
        self._known: dict[DeviceId, OrderedDict[Digest, Known]] = {}
        for u in snapshot.updates:
            self.remember(u.device, u.digest, u.round, u.reason if u.status == "refused" else "")

    @property
    def blobs(self) -> dict[Digest, int]:
        """What devices may ask for, with sizes."""
        return self.settings.genesis_sizes | dict(self.models[-self.settings.keep_models :])

    def remember(self, device: DeviceId, update: Digest, round_: int, refused: str) -> None:
        """Keep what became of an update, for when the device offers it again."""
        known = self._known.setdefault(device, OrderedDict())
        known[update] = Known(round_, refused)
        known.move_to_end(update)
        while len(known) > REMEMBERED:
            known.popitem(last=False)

    def known(self, device: DeviceId, update: Digest) -> Known | None:
        """What became of an update, if it was one of the device's latest."""
        return self._known.get(device, OrderedDict()).get(update)

    def receipt(
        self, device: DeviceId, update: Digest, round_: int, refused: str
    ) -> tuple[str, bytes]:
        """Topic and payload of a signed UpdateReceipt."""
        settings = self.settings
        message = UpdateReceipt(
            fleet=settings.fleet,
            device=device,
            round=round_,
            update=update,
            status=ReceiptStatus.REFUSED if refused else ReceiptStatus.ACCEPTED,
            reason=refused,
        )
        topic = build(DownTopic(settings.fleet, device, Down.RECEIPT))
        return topic, sign(message, settings.key)

"""A device that is properly enrolled, and lies: its messages are signed and sealed as they should
be, and wrong in whatever its `scheme` says.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from qflare.compression import parse_codec
from qflare.compression.encoding import encode
from qflare.crypto.suites import Aead
from qflare.effects import Publish
from qflare.envelope import peek_signed, seal_update
from qflare.messages import (
    KIB,
    DeviceHello,
    EnclaveClaims,
    PartyState,
    Presence,
    RoundOffer,
    UpdatePayload,
    UpdateReceipt,
)
from qflare.names import DeviceId, Digest
from qflare.topics import (
    All,
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
from qflare.transfer import Grant, TransferOffer
from tests.sim.edge import SIZE
from tests.sim.simulation import Simulation
from tests.unit.coordinator_rig import FLEET, TALLIES

Scheme = Callable[["Hostile", RoundOffer], None]


class Hostile:
    """`scheme` runs at the offer of each round up to `until`; after that it is honest."""

    def __init__(self, sim: Simulation, name: str, scheme: Scheme, until: int = 1) -> None:
        self.sim, self.name, self.scheme, self.until = sim, DeviceId.parse(name), scheme, until
        self.key, self.der = sim.world.identity(name)
        self.outbox: dict[Digest, tuple[int, bytes]] = {}
        self.receipts: list[UpdateReceipt] = []
        self.attacks: list[Digest] = []  # updates of the scheme
        self.honest: list[Digest] = []
        self.offers: dict[int, RoundOffer] = {}
        self.mute = False  # doesn't send what is granted

    def start(self) -> None:
        lost, online = (
            PartyState(status, 1, "1", "").to_bytes() for status in (Presence.LOST, Presence.ONLINE)
        )
        state = StateTopic(FLEET, self.name)
        self.sim.broker.connect(self.name, self._hear, Publish(build(state), lost, True))
        self.sim.say(self.name, state, online, retain=True)
        self.up(Up.HELLO, DeviceHello(self.der, 1).to_bytes())

    # --- what it says --------------------------------------------------------------------------

    def say(self, topic: Topic, payload: bytes) -> None:
        self.sim.say(self.name, topic, payload)

    def up(self, kind: Up, payload: bytes) -> None:
        self.say(UpTopic(FLEET, self.name, kind), payload)

    def offer(self, data: bytes, round_: int, **changes: Any) -> Digest:
        """Offer an update, and send it as it is granted."""
        digest = Digest.of(data)
        self.outbox[digest] = (round_, data)
        given: dict[str, Any] = {
            "transfer": digest,
            "round": round_,
            "size": len(data),
            "chunk": KIB,
        }
        self.up(Up.OFFER, TransferOffer(**(given | changes)).to_bytes())
        return digest

    def seal(self, claims: EnclaveClaims, payload: UpdatePayload | None = None, **to: Any) -> bytes:
        given: dict[str, Any] = {"device": self.name, "certificate": Digest.of(self.der)}
        given |= {"signing_key": self.key, "aead": Aead.AES_256_GCM}
        return seal_update(payload or self.payload(), claims, **(given | to))

    def payload(self, weight: int = 5, value: float = 0.01, size: int = SIZE) -> UpdatePayload:
        delta = np.full(size, value, np.float32)
        kind = parse_codec(self.sim.settings.policy.codec)
        encoded = encode(delta, kind, np.random.default_rng(1))[0]
        return UpdatePayload(weight, encoded, TALLIES)

    def try_on(self, offer: RoundOffer, data: bytes) -> None:
        """Send an update that shouldn't be taken."""
        self.attacks.append(self.offer(data, offer.round))

    def be_honest(self, offer: RoundOffer) -> None:
        """Send an update that has to be taken."""
        self.honest.append(self.offer(self.seal(offer.claims), offer.round))

    # --- what it hears -------------------------------------------------------------------------

    def _hear(self, topic: str, payload: bytes, retained: bool) -> None:
        match parse(topic):
            case AllTopic(kind=All.HELLO):
                self.up(Up.HELLO, DeviceHello(self.der, 1).to_bytes())
            case AllTopic(kind=All.OFFER) if payload:
                offer = peek_signed(RoundOffer, payload)
                if self.offers.setdefault(offer.round, offer) is offer:
                    self.mute = False
                    behave = self.scheme if offer.round <= self.until else Hostile.be_honest
                    behave(self, offer)
            case DownTopic(device=self.name, kind=Down.GRANT):
                self._send(Grant.parse(payload))
            case DownTopic(device=self.name, kind=Down.RECEIPT):
                self.receipts.append(peek_signed(UpdateReceipt, payload))
            case DownTopic(device=device):
                raise AssertionError(f"{self.name} hears what is for {device}")

    def _send(self, grant: Grant) -> None:
        if self.mute or grant.transfer not in self.outbox:
            return
        _, data = self.outbox[grant.transfer]
        for i in grant.indices:
            part = data[i * KIB : (i + 1) * KIB]
            self.say(UpChunk(FLEET, self.name, grant.transfer, i), part)

    # --- what came of it -----------------------------------------------------------------------

    def words(self, update: Digest) -> list[str]:
        """The receipts for an update, in order: "" is accepted, else why it was refused."""
        return [receipt.reason for receipt in self.receipts if receipt.update == update]

    def honest_counted(self) -> bool:
        """Is everything in that it meant well?"""
        admitted = [
            dict(self.sim.coordinator.store.admitted(n)).get(self.name) for n in self.offers
        ]
        return bool(self.honest) and set(self.honest) <= set(admitted)

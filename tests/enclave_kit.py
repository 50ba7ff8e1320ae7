"""A fleet with real keys, certificates and an enclave machine, for tests of the enclave."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from enclave.events import Effect, Persist, Reply
from enclave.evidence.insecure_simulated import InsecureSimulated
from enclave.machine import EnclaveMachine, Request
from qflare.compression import parse_codec
from qflare.compression.encoding import encode
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT, Aead
from qflare.enclave_wire import (
    Admit,
    Configure,
    OpenRound,
    Predecessor,
    Refused,
    Release,
    Released,
    RoundOpened,
)
from qflare.envelope import open_signed, seal_update, sign
from qflare.messages import EnclaveClaims, Message, RoundReceipt, UpdatePayload
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
from qflare.tallies import Tallies
from qflare.tensors import weights_to_bytes

FLEET = FleetId.parse("gym")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
SIZE = 300
CLASSES = 3
MEASUREMENT = Digest.of(b"this code")
PLATFORM_KEY = bytes(range(32))


@dataclass(frozen=True)
class Device:
    """A device with a key and a certificate."""

    name: DeviceId
    key: SigningKey
    certificate: bytes

    @property
    def fingerprint(self) -> Digest:
        return Digest.of(self.certificate)

    def seal(self, claims: EnclaveClaims, payload: UpdatePayload, **changes: Any) -> bytes:
        """Seal a payload to the enclave of `claims`; `changes` are arguments to lie in."""
        given: dict[str, Any] = {"device": self.name, "certificate": self.fingerprint}
        given |= {"signing_key": self.key, "aead": Aead.AES_256_GCM}
        return seal_update(payload, claims, **(given | changes))


@dataclass
class Fleet:
    """Owner, CA and devices of one fleet, and a way to make enclaves for it."""

    count: int = 4
    weights: bytes = field(default_factory=lambda: weights_to_bytes(np.ones(SIZE, np.float32)))

    def __post_init__(self) -> None:
        self.owner = SigningKey.generate(DEFAULT)
        self.coordinator = SigningKey.generate(DEFAULT)
        self.ca_key, self.ca = issue_ca(FLEET, DEFAULT, NOW, 3650)
        self.devices = [self.device(f"watch-{i:02}") for i in range(self.count)]
        self.policy = RoundPolicy(
            suite=DEFAULT.name,
            codec="q8",
            min_cohort=2,
            max_cohort=8,
            clip_norm=4.0,
            weight_cap=100,
            deadline_s=60,
            schedule=Schedule(20, 1, 0.1, 0.1, 0.9, 1.0),
        )
        self.manifest = OwnerManifest(
            fleet=FLEET,
            version=1,
            issued=0,
            expires=2**40,
            suite=DEFAULT.name,
            coordinator_key=self.coordinator.verify_key.raw,
            device_cas=(self.ca,),
            revoked=(),
            genesis=Genesis(
                Digest.of(b"graph"), Digest.of(self.weights),
                (("w", (SIZE,)),), CLASSES,
            ),
            bounds=PolicyBounds((DEFAULT.name,), ("q8", "q4", "fixed32"), 2, 8.0, 1000),
            reference_values=(ReferenceValue("insecure_simulated", MEASUREMENT),),
            appraisal=AppraisalPolicy(tier=0),
            allow_insecure=True,
        )  # fmt: skip

    def device(self, name: str) -> Device:
        key, device = SigningKey.generate(DEFAULT), DeviceId.parse(name)
        der = issue_device(self.ca_key, self.ca, device, key.verify_key, NOW, 365)
        return Device(device, key, der)

    def configure(self, **changes: Any) -> Configure:
        return Configure(sign(replace(self.manifest, **changes), self.owner))

    def machine(self, sealed: bytes | None = None, seed: int | None = 7) -> EnclaveMachine:
        provider = InsecureSimulated(MEASUREMENT, PLATFORM_KEY)
        random = np.random.default_rng().bytes
        return EnclaveMachine(FLEET, self.owner.verify_key, provider, random, sealed, seed)

    def open_request(self, round_: int = 1, **changes: Any) -> OpenRound:
        request = OpenRound(round_, 1_000, self.policy, (), None, self.weights, b"")
        return replace(request, **changes)

    def tallies(self, number: int) -> Tallies:
        """What device `number` says of its validation part: like nobody else's."""
        return (number + 30, 7, number + 8, 5, number % 6, 3, 20, 0, 20, 77_000 + number, 66_000)

    def payload(self, number: int, weight: int = 10, codec: str = "q8") -> UpdatePayload:
        """The update that device `number` makes, the same each time."""
        rng = np.random.default_rng(number)
        delta = rng.standard_normal(SIZE).astype(np.float32) * 0.05
        kind = parse_codec(codec)
        encoded = encode(delta, kind, rng, self.policy.clip_norm)[0]
        return UpdatePayload(weight, encoded, self.tallies(number))

    def admit(self, number: int, claims: EnclaveClaims, **changes: Any) -> Admit:
        device = self.devices[number]
        return Admit(device.certificate, device.seal(claims, self.payload(number), **changes))


class Driver:
    """Performs effects in memory: remembers what was persisted, returns the reply."""

    def __init__(self, fleet: Fleet, **options: Any) -> None:
        self.fleet = fleet
        self.machine = fleet.machine(**options)
        self.disk: bytes | None = None
        self.on_effect: Callable[[Effect], None] = lambda _: None

    def ask(self, request: Request) -> Message:
        replies = []
        for effect in self.machine.handle(request):
            match effect:
                case Persist():
                    self.disk = effect.sealed
                case Reply():
                    replies.append(effect.message)
            self.on_effect(effect)
        (reply,) = replies
        assert type(reply).parse(reply.to_bytes()) == reply  # within its ceiling, one spelling
        return reply

    def restart(self) -> None:
        """As after `kill -9`."""
        self.machine = self.fleet.machine(self.disk)

    def opened(self, request: OpenRound) -> RoundOpened:
        reply = self.ask(request)
        assert isinstance(reply, RoundOpened), reply
        return reply

    def refused(self, request: Request) -> str:
        reply = self.ask(request)
        assert isinstance(reply, Refused), reply
        return reply.reason

    def released(self, round_: int) -> Released:
        reply = self.ask(Release(round_))
        assert isinstance(reply, Released), reply
        return reply

    def run_round(self, request: OpenRound) -> tuple[RoundOpened, Released]:
        """Open, admit everybody, release."""
        opened = self.opened(request)
        for number in range(self.fleet.count):
            self.ask(self.fleet.admit(number, opened.claims))
        return opened, self.released(request.round)

    def receipt(self, released: Released, claims: EnclaveClaims) -> RoundReceipt:
        return open_signed(
            RoundReceipt, released.receipt, VerifyKey.parse(DEFAULT, claims.signing_key)
        )


def after(opened: RoundOpened, released: Released) -> dict[str, Any]:
    """What the next OpenRound says of the last release."""
    predecessor = Predecessor(released.receipt, opened.claims)
    return {
        "predecessor": predecessor,
        "weights": released.weights,
        "state": released.state,
    }

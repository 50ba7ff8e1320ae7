"""An owner, a coordinator and an enclave in a few lines, to try the device against.

It releases whatever model it is told to; each message can be made wrong by changing its fields.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np

from edge_runtime.machine import Machine
from edge_runtime.memory import RoundStats
from edge_runtime.sealing import Identity, seal
from edge_runtime.state import Past, Settings
from qflare import zoo
from qflare.compression import parse_codec
from qflare.compression.encoding import clip, compress_with_feedback
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import sign
from qflare.messages import (
    ZERO,
    Checkpoint,
    EnclaveClaims,
    Evidence,
    ModelReady,
    ReceiptStatus,
    RoundOffer,
    RoundReceipt,
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
from qflare.proofs import Tree
from qflare.schedule import Schedule
from qflare.tallies import Tallies
from qflare.tensors import FloatVector
from qflare.verifiers.simulated import INSECURE_SIMULATED, SimulatedReport

FLEET = FleetId.parse("demo")
DEVICE = DeviceId.parse("dev-1")
MEASUREMENT = Digest.of(b"the enclave that the owner means")
NOW = 1_800_000_000.0
SIZE = 12  # coordinates of the small model
CLASSES = 2
TALLIES = (4, 2, 3, 1, 0, 0, 5000, 4000)

POLICY = RoundPolicy(
    suite=DEFAULT.name,
    codec="q8",
    min_cohort=1,
    max_cohort=50,
    clip_norm=4.0,
    weight_cap=1000,
    deadline_s=60,
    schedule=Schedule(20, 1, 0.05, 0.1, 0.9, 1.0),
)


@cache
def keys() -> tuple[SigningKey, SigningKey, SigningKey, KemPrivateKey, bytes, SigningKey, bytes]:
    """owner, coordinator, enclave, enclave's KEM key, CA certificate, device key, certificate."""
    now = datetime.now(UTC)
    ca_key, ca = issue_ca(FLEET, DEFAULT, now, 10)
    device = SigningKey.generate(DEFAULT)
    certificate = issue_device(ca_key, ca, DEVICE, device.verify_key, now, 10)
    owner, coordinator, enclave = (SigningKey.generate(DEFAULT) for _ in range(3))
    return owner, coordinator, enclave, KemPrivateKey.generate(DEFAULT), ca, device, certificate


def model(number: int, size: int = SIZE) -> bytes:
    """Some weights, float32."""
    return np.full(size, number / 8, "<f4").tobytes()


def evidence(claims: EnclaveClaims, measurement: Digest = MEASUREMENT) -> Evidence:
    return Evidence(INSECURE_SIMULATED, SimulatedReport(measurement, claims.report_data).to_bytes())


@dataclass(frozen=True, eq=False)
class MadeUpdate:
    """An update, and what has to be committed with it."""

    update: bytes = field(repr=False)
    residual: FloatVector = field(repr=False)
    stats: RoundStats


def make_update(
    delta: FloatVector,
    residual: FloatVector,
    examples: int,
    tallies: Tallies,
    claims: EnclaveClaims,
    policy: RoundPolicy,
    identity: Identity,
    rng: np.random.Generator,
) -> MadeUpdate:
    """What the training process and the daemon make together of delta = local - global."""
    encoded, left = compress_with_feedback(
        clip(delta, policy.clip_norm), residual, parse_codec(policy.codec), rng, policy.clip_norm
    )
    update = seal(encoded, examples, tallies, claims, policy, identity)
    sizes = {"encoded_bytes": len(encoded), "float32_bytes": 4 * delta.size}
    sizes["update_bytes"] = len(update)
    stages = (("compress", 0.0), ("seal", 0.0))
    return MadeUpdate(update, left, RoundStats(stages, tuple(sorted(sizes.items()))))


@dataclass
class Lab:
    """The other side of the wire."""

    graph: bytes = b"graph"
    genesis: bytes = field(default_factory=lambda: model(0))
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = (("w", (SIZE,)),)
    classes: int = CLASSES
    leaves: list[bytes] = field(default_factory=list)
    receipts: list[RoundReceipt] = field(default_factory=list)
    manifest_changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owner, self.coordinator, self.enclave, self.kem, self.ca, self.key, self.der = keys()

    @classmethod
    def with_zoo(cls) -> "Lab":
        """The lab with the real watch model."""
        it = zoo.load("watch_cnn")
        parameters = tuple((p.name, tuple(p.shape)) for p in it.manifest.parameters)
        return cls(it.tflite, it.weights, parameters, it.manifest.rows)

    @property
    def manifest(self) -> OwnerManifest:
        made = OwnerManifest(
            fleet=FLEET,
            version=1,
            issued=0,
            expires=2**40,
            suite=DEFAULT.name,
            coordinator_key=self.coordinator.verify_key.raw,
            device_cas=(self.ca,),
            revoked=(),
            genesis=Genesis(
                Digest.of(self.graph),
                Digest.of(self.genesis),
                self.parameters,
                self.classes,
            ),
            bounds=PolicyBounds((DEFAULT.name,), ("q8", "q4", "q8z"), 1, 8.0, 100_000),
            reference_values=(ReferenceValue(INSECURE_SIMULATED, MEASUREMENT),),
            appraisal=AppraisalPolicy(tier=0),
            allow_insecure=True,
        )
        return replace(made, **self.manifest_changes)

    def signed_manifest(self, key: SigningKey | None = None, **changes: Any) -> bytes:
        return sign(replace(self.manifest, **changes), key or self.owner)

    @property
    def identity(self) -> Identity:
        return Identity(DEVICE, Digest.of(self.der), self.key)

    def settings(self) -> Settings:
        return Settings(FLEET, self.identity, self.der, self.owner.verify_key)

    def machine(self, past: Past | None = None) -> Machine:
        return Machine(self.settings(), past)

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        leaves = self.leaves if size is None else self.leaves[:size]
        return Checkpoint(len(leaves), Tree(leaves).root())

    def claims(self, round_: int, **changes: Any) -> EnclaveClaims:
        last = self.receipts[-1] if self.receipts else None
        made = EnclaveClaims(
            fleet=FLEET,
            suite=DEFAULT.name,
            manifest=self.manifest.digest,
            round=round_,
            opened_at=int(NOW),
            epoch=round_,
            step=last.step + 1 if last else 1,
            policy=POLICY.digest,
            cohort=ZERO,
            model=last.model if last else Digest.of(self.genesis),
            state=last.state if last else ZERO,
            receipt=last.digest if last else ZERO,
            kem_key=self.kem.public.raw,
            signing_key=self.enclave.verify_key.raw,
        )
        return replace(made, **changes)

    def offer(self, round_: int, cohort: tuple[DeviceId, ...] = (), **changes: Any) -> RoundOffer:
        policy = changes.pop("policy", POLICY)
        claims = changes.pop("claims", None) or self.claims(
            round_, cohort=cohort_digest(cohort), policy=policy.digest
        )
        made = RoundOffer(
            fleet=FLEET,
            round=round_,
            policy=policy,
            cohort=cohort,
            claims=claims,
            evidence=evidence(claims),
            checkpoint=self.checkpoint(),
            closes_at=int(NOW) + 60,
        )
        return replace(made, **changes)

    def signed_offer(self, round_: int, key: SigningKey | None = None, **changes: Any) -> bytes:
        return sign(self.offer(round_, **changes), key or self.coordinator)

    def receipt(
        self, round_: int, weights: bytes, updates: tuple[Digest, ...] = (), **changes: Any
    ) -> tuple[RoundReceipt, EnclaveClaims]:
        claims = self.claims(round_)
        leaves = [update_leaf(DEVICE, update) for update in updates] or [b"somebody else"]
        made = RoundReceipt(
            fleet=FLEET,
            manifest=claims.manifest,
            round=round_,
            epoch=claims.epoch,
            step=claims.step,
            claims=claims.digest,
            policy=claims.policy,
            previous_receipt=claims.receipt,
            previous_model=claims.model,
            model=Digest.of(weights),
            state=Digest.of(b"state", weights),
            admitted=len(leaves),
            refused=(),
            total_weight=100,
            updates=Tree(leaves).root(),
            seed=Digest.of(b"seed"),
            tallies=TALLIES,
        )
        return replace(made, **changes), claims

    def release(
        self,
        round_: int,
        weights: bytes,
        updates: tuple[Digest, ...] = (),
        enclave_key: SigningKey | None = None,
        ready: dict[str, Any] | None = None,
        **changes: Any,
    ) -> bytes:
        """Append to the ledger, and return the signed ModelReady."""
        receipt, claims = self.receipt(round_, weights, updates, **changes)
        signed = sign(receipt, enclave_key or self.enclave)
        self.leaves.append(signed)
        self.receipts.append(receipt)
        tree = Tree(self.leaves)
        made = ModelReady(
            fleet=FLEET,
            receipt=signed,
            claims=claims,
            evidence=evidence(claims),
            checkpoint=self.checkpoint(),
            inclusion=tree.inclusion_proof(len(self.leaves) - 1),
            consistency=tree.consistency_proof(len(self.leaves) - 1),
            model_size=len(weights),
        )
        return sign(replace(made, **(ready or {})), self.coordinator)

    def fork(self) -> "Lab":
        """The same world up to now, to go another way."""
        return replace(self, leaves=[*self.leaves], receipts=[*self.receipts])

    def update_receipt(
        self, round_: int, update: Digest, key: SigningKey | None = None, **changes: Any
    ) -> bytes:
        made = UpdateReceipt(FLEET, DEVICE, round_, update, ReceiptStatus.ACCEPTED, "")
        return sign(replace(made, **changes), key or self.coordinator)

    def update(self, claims: EnclaveClaims) -> tuple[bytes, bytes]:
        """What the worker would make for these claims: the update and the residual."""
        rng = np.random.Generator(np.random.PCG64(1))
        delta, zero = np.full(SIZE, 0.25, np.float32), np.zeros(SIZE, np.float32)
        made = make_update(delta, zero, 7, TALLIES, claims, POLICY, self.identity, rng)
        return made.update, made.residual.tobytes()

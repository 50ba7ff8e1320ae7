"""The verifier of released models: signature -> evidence -> receipt -> ledger, in this order.

Like trusted_round.py: PeerFault for a broken rule, NotYet for what is missing, LocalFault for our
own disorder, no I/O.
"""

from dataclasses import dataclass, field

from edge_runtime.trusted_round import Trust
from qflare.appraisal import appraise_release
from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import parse_suite
from qflare.envelope import open_signed
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.messages import ZERO, ModelReady, RoundReceipt
from qflare.proofs import Proof, verify_inclusion
from qflare.record import check


@dataclass(frozen=True)
class VerifiedModel:
    """A release that is as good as the enclave that signed it."""

    receipt: RoundReceipt
    size: int  # bytes of the weights
    known: bool  # it was the last verified one already
    said: bytes = field(repr=False)  # the signed ModelReady


class TrustedModel:
    """One `ModelReady` on its way through the verifier."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._ready: ModelReady | None = None
        self._said = b""
        self._appraised = False
        self._receipt: RoundReceipt | None = None

    @property
    def ready(self) -> ModelReady:
        if self._ready is None:
            raise LocalFault("the coordinator's signature comes first; call take_ready")
        return self._ready

    def take_ready(self, data: bytes) -> ModelReady:
        """Coordinator's signature and fleet."""
        manifest = self._trust.manifest
        ready = open_signed(ModelReady, data, self._trust.coordinator_key)
        check(ready.fleet == manifest.fleet, "model", Reason.WRONG_FLEET)
        check(ready.model_size == 4 * manifest.genesis.size, "model's size", Reason.WRONG_SHAPE)
        self._ready, self._said = ready, data
        return ready

    def take_evidence(self) -> None:
        """Appraise the enclave that released, by a manifest that this device accepted.

        Endorsements are judged as of the round's opening: a release counts when they have ended.

        An enclave binds whatever manifest it was configured with, hence the claims must name one
        of *our* owner's: today's, or one that it replaced.
        """
        claims, memory = self.ready.claims, self._trust.memory
        ours = (memory.manifest, *memory.former_manifests)
        check(claims.manifest in ours, "claims name a foreign manifest", Reason.WRONG_OFFER)
        appraise_release(self.ready.evidence, claims, self._trust.manifest)
        self._appraised = True

    def take_receipt(self) -> RoundReceipt:
        """Enclave's signature, agreement with its claims, and succession to the last receipt.

        Raises PeerFault: ROLLBACK for an older release, EQUIVOCATION for a second story about a
        step, WRONG_OFFER or WRONG_DIGEST for a receipt that disagrees.
        """
        if not self._appraised:
            raise LocalFault("evidence comes before the receipt; call take_evidence")
        claims = self.ready.claims
        key = VerifyKey.parse(parse_suite(claims.suite), claims.signing_key)
        receipt = open_signed(RoundReceipt, self.ready.receipt, key)
        other = receipt.disagreement(claims)
        check(not other, f"receipt and claims disagree on the {other}", Reason.WRONG_OFFER)
        bounds = self._trust.manifest.bounds
        check(
            receipt.admitted >= bounds.min_cohort_floor,
            f"released with {receipt.admitted} updates",
            Reason.BELOW_MIN_COHORT,
        )
        self._verify_succession(receipt)
        self._receipt = receipt
        return receipt

    def _verify_succession(self, receipt: RoundReceipt) -> None:
        known = self._trust.memory.receipt
        if known is None:
            if receipt.previous_receipt == ZERO:
                genesis = self._trust.manifest.genesis.weights
                first = receipt.step == 1 and receipt.previous_model == genesis
                check(first, "a first release from other weights", Reason.WRONG_DIGEST)
            return
        if receipt.digest == known.digest:
            return
        if receipt.step == known.step or (receipt.round == known.round):
            raise PeerFault(Reason.EQUIVOCATION, f"two releases of step {receipt.step}")
        if receipt.step < known.step or receipt.round < known.round:
            raise PeerFault(Reason.ROLLBACK, f"release {receipt.step} after {known.step}")
        if receipt.step == known.step + 1:
            follows = (receipt.previous_receipt, receipt.previous_model)
            check(
                follows == (known.digest, known.model),
                "the release follows another one than the last",
                Reason.EQUIVOCATION,
            )

    def take_ledger(self, proof: Proof | None = None) -> VerifiedModel:
        """Inclusion as the checkpoint's last leaf, then consistency; see Trust.extend_ledger."""
        ready, receipt, trust = self.ready, self._receipt, self._trust
        if receipt is None:
            raise LocalFault("the receipt comes before the ledger; call take_receipt")
        shown, known = ready.checkpoint, trust.memory.checkpoint
        verify_inclusion(ready.receipt, shown.size - 1, shown.size, ready.inclusion, shown.root)
        if known.size == shown.size - 1 and proof is None:
            proof = ready.consistency
        trust.extend_ledger(shown, proof)
        last = trust.memory.receipt
        if last is not None and last.digest == receipt.digest:
            return VerifiedModel(receipt, ready.model_size, True, self._said)
        trust.memory = trust.memory.with_receipt(receipt, shown)
        return VerifiedModel(receipt, ready.model_size, False, self._said)

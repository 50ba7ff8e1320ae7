"""The device's verifier: untrusted bytes in, a round to train for out, in one order only.

manifest -> offer -> evidence -> model -> ledger. A step before its predecessor is our own mistake
(LocalFault). What breaks a rule raises PeerFault. What can't be judged yet, because something is
missing that an honest coordinator will send, raises NotYet. Nothing here does I/O; `memory` is
what the caller has to make durable before it acts on the outcome.
"""

from dataclasses import dataclass

from edge_runtime.memory import Memory
from qflare.appraisal import AttestationResult
from qflare.compression import parse_codec
from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import parse_suite
from qflare.envelope import open_signed
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.merkle import EMPTY_ROOT
from qflare.messages import ZERO, Checkpoint, RoundOffer
from qflare.names import DeviceId, Digest, FleetId
from qflare.owners import open_manifest
from qflare.policy import OwnerManifest
from qflare.proofs import Proof, verify_consistency
from qflare.record import check
from qflare.verification import Verification

CLOCKS_APART_S = 86_400  # clocks of devices and coordinators may be so far from each other


class NotYet(Exception):
    """Nobody did anything wrong; something has to arrive first."""


class NeedModel(NotYet):
    """The `ModelReady` of the model that the offer starts from."""


@dataclass(eq=False)
class NeedConsistency(NotYet):
    """A proof that the ledger grew from what we remember to what is shown now."""

    old_size: int
    new_size: int


@dataclass(frozen=True)
class VerifiedRound:
    """An offer that this device may answer."""

    offer: RoundOffer
    evidence: AttestationResult
    invited: bool

    @property
    def claims(self) -> Digest:
        return self.offer.claims.digest


class Trust:
    """The owner manifest and the memory, by which offers and models are judged."""

    def __init__(self, owner_key: VerifyKey, fleet: FleetId, memory: Memory | None = None) -> None:
        self.owner_key = owner_key
        self.fleet = fleet
        self.memory = memory or Memory()
        self._manifest: OwnerManifest | None = None
        self._coordinator: VerifyKey | None = None
        self.verification: Verification | None = None  # of the last offer, for people

    @property
    def manifest(self) -> OwnerManifest:
        if self._manifest is None:
            raise LocalFault("no owner manifest was taken yet; take it before anything else")
        return self._manifest

    @property
    def coordinator_key(self) -> VerifyKey:
        if self._coordinator is None:
            raise LocalFault("no owner manifest was taken yet; take it before anything else")
        return self._coordinator

    @property
    def ready(self) -> bool:
        """Is there a manifest?"""
        return self._manifest is not None

    def take_manifest(self, data: bytes) -> bool:
        """Take a manifest; is it another one than before? Raises PeerFault(ROLLBACK) and others.

        Version and owners that were remembered count even if the manifest itself was lost.
        """
        memory = self.memory
        newer, owners = open_manifest(data, self.owner_key, self.fleet, memory.owners_seen)
        same_version = newer.version == memory.manifest_version and newer.digest != memory.manifest
        if newer.version < memory.manifest_version or same_version:
            detail = f"manifest {newer.version} after {memory.manifest_version}"
            raise PeerFault(Reason.ROLLBACK, detail)
        coordinator = VerifyKey.parse(parse_suite(newer.suite), newer.coordinator_key)
        changed = newer != self._manifest
        self._manifest, self._coordinator = newer, coordinator
        self.memory = memory.with_manifest(newer, owners)
        return changed

    def extend_ledger(self, shown: Checkpoint, proof: Proof | None) -> None:
        """Remember `shown` if the ledger under it begins with the one that is remembered.

        Raises NeedConsistency when it takes a proof that wasn't given, PeerFault: ROLLBACK for a
        shorter ledger, EQUIVOCATION for another one of the same size, BAD_PROOF.
        """
        known = self.memory.checkpoint
        if shown.size < known.size:
            raise PeerFault(Reason.ROLLBACK, f"ledger of {shown.size} after {known.size}")
        if shown.size == known.size:
            check(shown.root == known.root, "two ledgers of one size", Reason.EQUIVOCATION)
            return
        if known.size == 0:
            proof = ()  # every ledger begins with the empty one
        if proof is None:
            raise NeedConsistency(known.size, shown.size)
        verify_consistency(known.size, known.root, shown.size, shown.root, proof)
        self.memory = self.memory.with_checkpoint(shown)


class TrustedRound:
    """One offer on its way through the verifier."""

    def __init__(self, trust: Trust, device: DeviceId) -> None:
        self._trust = trust
        self._device = device
        self._offer: RoundOffer | None = None
        self._evidence: AttestationResult | None = None
        self._model = False

    @property
    def offer(self) -> RoundOffer:
        if self._offer is None:
            raise LocalFault("the offer comes first; call take_offer")
        return self._offer

    @property
    def answered(self) -> bool:
        """Is this the very offer that was answered last?"""
        memory, claims = self._trust.memory, self.offer.claims
        return (memory.answered_round, memory.answered_claims) == (claims.round, claims.digest)

    def take_offer(self, data: bytes) -> RoundOffer:
        """Coordinator's signature, fleet, manifest, policy within bounds, and the round's number.

        Raises PeerFault: EQUIVOCATION for a second story about an answered round, WRONG_ROUND for
        one that is behind us, WRONG_OFFER for another manifest, and whatever the parts raise.
        """
        manifest = self._trust.manifest
        offer = open_signed(RoundOffer, data, self._trust.coordinator_key)
        claims = offer.claims
        check(offer.fleet == claims.fleet == manifest.fleet, "offer", Reason.WRONG_FLEET)
        check(claims.suite == offer.policy.suite == manifest.suite, "offer", Reason.WRONG_SUITE)
        manifest.bounds.verify(offer.policy)
        parse_codec(offer.policy.codec)
        check(
            claims.manifest == manifest.digest, "claims name another manifest", Reason.WRONG_OFFER
        )
        self._verify_round(offer)
        self._offer = offer
        return offer

    def _verify_round(self, offer: RoundOffer) -> None:
        memory = self._trust.memory
        if offer.round == memory.answered_round:
            check(
                offer.claims.digest == memory.answered_claims,
                f"a second offer for round {offer.round}, which was answered",
                Reason.EQUIVOCATION,
            )
            return
        behind = max(memory.answered_round, memory.receipt.round if memory.receipt else 0)
        check(offer.round > behind, f"round {offer.round} after {behind}", Reason.WRONG_ROUND)

    def take_evidence(self, now: int) -> AttestationResult:
        """Appraise the enclave for these claims at `now` (Unix seconds).

        Raises PeerFault: EVIDENCE_REFUSED and others of `appraise`, STALE_EPOCH for claims that
        were opened longer ago than their round may take.
        """
        offer = self.offer
        manifest = self._trust.manifest
        record, outcome = Verification.run(offer.evidence, offer.claims, manifest, now)
        age = now - offer.claims.opened_at
        late = age > offer.policy.deadline_s + CLOCKS_APART_S
        if late and not isinstance(outcome, PeerFault):
            outcome = PeerFault(Reason.STALE_EPOCH, f"opened {age} s ago, and long closed")
            record = record.refused(outcome)
        if not record.same(self._trust.verification):
            self._trust.verification = record
        if isinstance(outcome, PeerFault):
            raise outcome
        self._evidence = outcome
        return outcome

    def take_model(self) -> Digest:
        """The weights to start from: those of the newest verified receipt, or the genesis ones.

        Raises NeedModel when the claims are ahead of what was verified, PeerFault: ROLLBACK when
        they are behind, WRONG_DIGEST when they name other weights for a known receipt.
        """
        if self._evidence is None:
            raise LocalFault("evidence comes before the model; call take_evidence")
        claims, known = self.offer.claims, self._trust.memory.receipt
        if claims.receipt == ZERO:
            genesis = self._trust.manifest.genesis.weights
            check(known is None, "genesis after a released model", Reason.ROLLBACK)
            expected = (genesis, ZERO, 1)
        elif known is not None and claims.receipt == known.digest:
            expected = (known.model, known.state, known.step + 1)
        elif known is not None and claims.step <= known.step + 1:
            raise PeerFault(Reason.ROLLBACK, "the offer starts from another or an older model")
        else:
            raise NeedModel(f"receipt {claims.receipt.short}")
        found = (claims.model, claims.state, claims.step)
        check(found == expected, "claims name other weights than the receipt", Reason.WRONG_DIGEST)
        self._model = True
        return claims.model

    def take_ledger(self, proof: Proof | None = None) -> VerifiedRound:
        """The offer's checkpoint against the remembered one; see Trust.extend_ledger."""
        if not self._model or self._evidence is None:
            raise LocalFault("the model comes before the ledger; call take_model")
        offer = self.offer
        if offer.checkpoint.size == 0:
            check(offer.checkpoint.root == EMPTY_ROOT, "an empty ledger's root", Reason.BAD_PROOF)
        self._trust.extend_ledger(offer.checkpoint, proof)
        invited = not offer.cohort or self._device in offer.cohort
        return VerifiedRound(offer, self._evidence, invited)

"""Offers and models that wait to be judged, and what they still lack. Pure.

What arrives before the owner manifest is kept unverified, the last few of a kind, so that garbage
cannot push out more than it is itself. With a manifest the signature is verified at once, and only
what the coordinator signed can wait for a proof or for the model that it builds on.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from edge_runtime.trusted_model import TrustedModel, VerifiedModel
from edge_runtime.trusted_round import (
    NeedConsistency,
    NeedModel,
    Trust,
    TrustedRound,
    VerifiedRound,
)
from qflare.faults import PeerFault, Reason
from qflare.names import DeviceId
from qflare.proofs import Proof
from qflare.transfer import AskConsistency, ConsistencyAnswer

UNVERIFIED_KEPT = 4
ASK_S = 5.0

Refuse = Callable[[str, PeerFault], None]
T = TypeVar("T")


@dataclass
class _Queue:
    """Messages of one kind: unverified ones, and at most one that waits with good reason."""

    fresh: deque[bytes] = field(default_factory=lambda: deque(maxlen=UNVERIFIED_KEPT))
    waiting: bytes | None = None

    def put(self, data: bytes) -> None:
        if data != self.waiting and data not in self.fresh:
            self.fresh.append(data)

    def take(self) -> list[bytes]:
        """Everything there is, the one that waits first."""
        held = [self.waiting] if self.waiting is not None else []
        taken = [*held, *self.fresh]
        self.fresh.clear()
        self.waiting = None
        return taken


class Appraiser:
    """Feeds the verifiers, in the protocol's order."""

    def __init__(
        self, trust: Trust, device: DeviceId, clock: Callable[[], float], today: Callable[[], float]
    ) -> None:
        self.trust = trust
        self.appraise_seconds = 0.0  # of the last offer that was judged to its end
        self._device = device
        self._clock, self._today = clock, today
        self._models = _Queue()
        self._offers = _Queue()
        self._lack: NeedConsistency | None = None
        self._proof: ConsistencyAnswer | None = None
        self._asked = float("-inf")

    @property
    def offer_waits(self) -> bool:
        """Is there an offer that can't be judged yet?"""
        return self._offers.waiting is not None or bool(self._offers.fresh)

    def put_model(self, data: bytes) -> None:
        self._models.put(data)

    def put_offer(self, data: bytes) -> None:
        self._offers.put(data)

    def withdraw_offer(self) -> None:
        """There is no open round."""
        self._offers = _Queue()
        if self._models.waiting is None:
            self._lack = None

    def put_proof(self, answer: ConsistencyAnswer) -> None:
        """Raise PeerFault(BAD_PROOF) for a proof that nobody needs."""
        lack = self._lack
        if lack is None or (lack.old_size, lack.new_size) != (answer.old_size, answer.new_size):
            raise PeerFault(Reason.BAD_PROOF, "a consistency proof that nobody asked for")
        self._proof = answer

    def reconnect(self) -> None:
        """What was asked on a connection that ended will not be answered."""
        self._asked = float("-inf")

    def ask(self, now: float) -> AskConsistency | None:
        """The proof to ask for, if one is lacking and it is time."""
        if self._lack is None or now - self._asked < ASK_S:
            return None
        self._asked = now
        return AskConsistency(self._lack.old_size, self._lack.new_size)

    def models(self, refuse: Refuse) -> list[VerifiedModel]:
        """Judge what can be judged; what was found good, in order."""
        good = []
        for data in self._models.take() if self.trust.ready else ():
            try:
                good.append(self._model(data, refuse))
            except NeedConsistency as lack:
                self._wait(self._models, data, lack)
            except PeerFault as fault:
                refuse("model", fault)
        return good

    def rounds(self, refuse: Refuse) -> list[VerifiedRound | TrustedRound]:
        """The same for offers; a TrustedRound is one that was answered already."""
        good: list[VerifiedRound | TrustedRound] = []
        for data in self._offers.take() if self.trust.ready else ():
            began = self._clock()
            try:
                good.append(self._round(data, refuse))
                self.appraise_seconds = self._clock() - began
            except NeedModel:
                self._offers.waiting = data
            except NeedConsistency as lack:
                self._wait(self._offers, data, lack)
            except PeerFault as fault:
                refuse("offer", fault)
        return good

    def _model(self, data: bytes, refuse: Refuse) -> VerifiedModel:
        it = TrustedModel(self.trust)
        it.take_ready(data)
        it.take_evidence()
        it.take_receipt()
        return self._with_proof(it.take_ledger, refuse)

    def _round(self, data: bytes, refuse: Refuse) -> VerifiedRound | TrustedRound:
        it = TrustedRound(self.trust, self._device)
        it.take_offer(data)
        if it.answered:
            return it
        it.take_evidence(int(self._today()))
        it.take_model()
        return self._with_proof(it.take_ledger, refuse)

    def _with_proof(self, take: Callable[[Proof | None], T], refuse: Refuse) -> T:
        try:
            return take(None)
        except NeedConsistency as lack:
            proof, self._proof = self._proof, None
            if proof is None or (proof.old_size, proof.new_size) != (lack.old_size, lack.new_size):
                raise
            try:
                verdict = take(proof.proof)
            except PeerFault as fault:
                # The proof is nobody's signed word: it was wrong, the message may be right.
                refuse("consistency", fault)
                raise lack from None
            self._lack = None
            return verdict

    def _wait(self, queue: _Queue, data: bytes, lack: NeedConsistency) -> None:
        queue.waiting = data
        if self._lack is None or (self._lack.old_size, self._lack.new_size) != (
            lack.old_size,
            lack.new_size,
        ):
            self._asked = float("-inf")
        self._lack = lack

"""The conversation with the enclave: configure, open, admit, release, and again after a loss.

Requests are answered in order. Whenever the connection is new, or the enclave says that it isn't
where we thought, everything is said again from the start: each request is harmless when repeated.
Pure.
"""

from collections import deque
from enum import StrEnum
from typing import Protocol

from coordinator.book import Book, LastRelease, Phase
from coordinator.events import (
    AdmitUpdate,
    AskEnclave,
    ConfigureEnclave,
    Effect,
    EnclaveReplied,
    KeepBlobs,
    Log,
    OpenEnclaveRound,
    Persist,
    ReleasedModel,
    ReleaseRound,
    RoundOffered,
    RoundReleased,
    SendBlob,
    UpdateSettled,
)
from qflare.appraisal import appraise
from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import parse_suite
from qflare.effects import Publish
from qflare.enclave_wire import Admitted, Predecessor, Refused, RoundOpened, Standing
from qflare.envelope import open_signed, sign
from qflare.faults import PeerFault, Reason
from qflare.merkle import root
from qflare.messages import (
    CHUNK_MAX,
    ZERO,
    ModelReady,
    RoundOffer,
    RoundReceipt,
    update_leaf,
)
from qflare.names import DeviceId
from qflare.record import check
from qflare.tallies import classes_of

IN_FLIGHT = 4  # Admit requests at a time
RETRY_S = 2.0  # after an answer that leads nowhere
_LOST_ROUND = frozenset({Reason.ROUND_CLOSED, Reason.WRONG_ROUND})
_SPENT = frozenset({Reason.WRONG_ROUND, Reason.EQUIVOCATION})


class Rounds(Protocol):
    """What the exchange asks of the machine."""

    def offered(
        self, offer: RoundOffer, signed: bytes, closes_at: float, now: float
    ) -> list[Effect]: ...
    def released(self, release: LastRelease, receipt: RoundReceipt, size: int) -> list[Effect]: ...
    def abandon(self, reason: str, now: float) -> list[Effect]: ...


class _Link(StrEnum):
    DOWN = "down"
    CONFIGURING = "configuring"
    READY = "ready"


class Exchange:
    """What was asked of the enclave, and what it said."""

    def __init__(self, book: Book, rounds: Rounds) -> None:
        self.book = book
        self._rounds = rounds
        self._link = _Link.DOWN
        self._round_open = False  # in the enclave, as far as this connection knows
        self._queue: deque[DeviceId] = deque()
        self._queued: set[DeviceId] = set()
        self._flying: set[DeviceId] = set()
        self._release_asked = False
        self._retry_at: float | None = None

    @property
    def ready(self) -> bool:
        """Configured, and able to open a round."""
        return self._link is _Link.READY

    def up(self) -> list[Effect]:
        """Connected: begin at the beginning."""
        self._forget()
        self._link = _Link.CONFIGURING
        self.book.enclave.state = "configuring"
        return [AskEnclave(ConfigureEnclave())]

    def down(self) -> list[Effect]:
        """Every answer that we waited for is lost."""
        self._forget()
        self.book.enclave.state = "away"
        return []

    def _forget(self) -> None:
        self._link, self._round_open, self._release_asked = _Link.DOWN, False, False
        self._queue.clear()
        self._queued.clear()
        self._flying.clear()
        self._retry_at = None

    def tick(self, now: float) -> list[Effect]:
        """Try again what was refused for a reason that may pass."""
        if self._retry_at is None or now < self._retry_at:
            return []
        return self.up()

    def open(self, request: OpenEnclaveRound) -> list[Effect]:
        """Ask for a round to be opened."""
        self._round_open = self._release_asked = False
        self._queue.clear()
        self._queued.clear()
        return [AskEnclave(request)]

    def pump(self, now: float) -> list[Effect]:
        """Hand over what was accepted, a few at a time; then, when closed, ask for the release."""
        book, current = self.book, self.book.round
        if current is None or not self._round_open:
            return []
        for device, update in current.updates.items():
            if update.status == "accepted" and device not in self._queued | self._flying:
                self._enqueue(device)
        effects: list[Effect] = []
        while self._queue and len(self._flying) < IN_FLIGHT:
            device = self._queue.popleft()
            self._queued.discard(device)
            found = book.registry.get(device)
            if found is None or not found.der:
                effects += self._settle(device, Reason.UNKNOWN_DEVICE, 0.0, now)
                continue
            self._flying.add(device)
            digest = current.updates[device].digest
            effects.append(AskEnclave(AdmitUpdate(current.number, device, found.der, digest)))
        idle = not (self._queue or self._flying or current.pending)
        if book.phase is Phase.RELEASING and idle and not self._release_asked:
            if current.admitted < current.request.policy.min_cohort:
                return [*effects, *self._rounds.abandon(Reason.BELOW_MIN_COHORT, now)]
            self._release_asked = True
            effects.append(AskEnclave(ReleaseRound(current.number)))
        return effects

    def _enqueue(self, device: DeviceId) -> None:
        self._queue.append(device)
        self._queued.add(device)

    def replied(self, event: EnclaveReplied, now: float) -> list[Effect]:
        """One answer; an answer to an earlier round's request says nothing any more."""
        current, request, reply = self.book.round, event.request, event.reply
        if self._link is _Link.DOWN:
            return []
        if isinstance(request, ConfigureEnclave):
            if isinstance(reply, Standing):
                return self._standing(reply, now)
            return self._retry(reply, now)
        if current is None or request.round != current.number:
            return []
        try:
            match request, reply:
                case OpenEnclaveRound(), RoundOpened():
                    return self._opened(reply, event.seconds, now)
                case AdmitUpdate(device=device), Admitted():
                    return self._admitted(request, reply, device, event.seconds, now)
                case ReleaseRound(), ReleasedModel():
                    return self._released(reply, event.seconds, now)
                case _, Refused():
                    return self._refused(request, reply, event.seconds, now)
        except PeerFault as fault:
            # The enclave is trusted, its socket isn't: what doesn't verify wasn't said.
            return self._retry(Refused(fault.reason, fault.detail), now)
        return self._retry(reply, now)

    def _retry(self, reply: object, now: float) -> list[Effect]:
        self._retry_at = now + RETRY_S
        said = (
            reply if isinstance(reply, Refused) else Refused(Reason.MALFORMED, type(reply).__name__)
        )
        self.book.refusals[said.reason] += 1
        fields = {"reason": said.reason, "detail": said.detail}
        return [Log("error", "the enclave's answer leads nowhere; asking again", fields)]

    # --- answers -------------------------------------------------------------------------------

    def _standing(self, reply: Standing, now: float) -> list[Effect]:
        book, current = self.book, self.book.round
        book.enclave.standing = reply
        if reply.manifest != book.settings.manifest.digest:
            return self._retry(Refused(Reason.POLICY_NOT_ALLOWED, "another owner manifest"), now)
        mine = book.last.number if book.last else 0
        asked = current is not None and book.phase is Phase.RELEASING
        if reply.released_round > mine and not (
            asked and current is not None and reply.released_round == current.number
        ):
            detail = f"it has released round {reply.released_round}, this database knows of {mine}"
            return self._retry(Refused(Reason.ROLLBACK, detail), now)
        if 0 < reply.released_round < mine:  # one that remembers nothing takes over by evidence
            detail = (
                f"an older state was put back: it knows of {reply.released_round}, we of {mine}"
            )
            return self._retry(Refused(Reason.ROLLBACK, detail), now)
        self._link, book.enclave.state = _Link.READY, "ready"
        if current is None or book.phase not in (
            Phase.OPENING,
            Phase.COLLECTING,
            Phase.RELEASING,
        ):
            return []
        if reply.released_round == current.number:  # it did, and its answer was lost
            self._release_asked = True
            return [AskEnclave(ReleaseRound(current.number))]
        return self.open(current.request)

    def _opened(self, reply: RoundOpened, seconds: float, now: float) -> list[Effect]:
        book, current = self.book, self.book.round
        if current is None:
            return []
        if book.phase is not Phase.OPENING:
            if current.offer is None or reply.claims != current.offer.claims:
                return self._rounds.abandon(Reason.STALE_EPOCH, now)
            self._round_open = True
            # It may have forgotten what it admitted: hand over everything again.
            self._queue.clear()
            self._queued.clear()
            for device, update in current.updates.items():
                if update.status != "refused":
                    self._enqueue(device)
            return []
        settings, request, claims = book.settings, current.request, reply.claims
        result = appraise(reply.evidence, claims, settings.manifest, int(now))
        receipt = ZERO
        if request.predecessor:
            key = VerifyKey.parse(
                parse_suite(settings.manifest.suite), request.predecessor.claims.signing_key
            )
            receipt = open_signed(RoundReceipt, request.predecessor.receipt, key).digest
        for ok, what in (
            (claims.manifest == settings.manifest.digest, "manifest"),
            (claims.policy == request.policy.digest, "policy"),
            (claims.model == request.weights, "model"),
            (claims.state == request.state, "optimiser state"),
            (claims.receipt == receipt, "receipt"),
            (claims.step == book.released + 1, "step"),
        ):
            check(ok, f"the enclave's claims are for another {what}", Reason.WRONG_OFFER)
        alerts = book.enclave.appraised(result, claims, now)
        closes_at = now + request.policy.deadline_s
        offer = RoundOffer(
            fleet=settings.fleet,
            round=current.number,
            policy=request.policy,
            cohort=reply.cohort,
            claims=claims,
            evidence=reply.evidence,
            checkpoint=book.ledger.checkpoint,
            closes_at=int(closes_at),
        )
        signed = sign(offer, settings.key)
        invited = len(reply.cohort) or len(book.registry.here(now))
        self._round_open = True
        return [
            Persist(
                RoundOffered(
                    current.number,
                    claims.step,
                    signed,
                    invited,
                    result.tier.name.lower(),
                    seconds,
                    now,
                    closes_at,
                )
            ),
            *self._rounds.offered(offer, signed, closes_at, now),
            Log("info", "round offered", {"round": current.number, "invited": invited}),
            *alerts,
        ]

    def _admitted(
        self, request: AdmitUpdate, reply: Admitted, device: DeviceId, seconds: float, now: float
    ) -> list[Effect]:
        same = (reply.device, reply.update) == (device, request.update)
        check(same, "an answer about another update", Reason.MALFORMED)
        self._flying.discard(device)
        return self._settle(device, None, seconds, now)

    def _settle(
        self, device: DeviceId, refused: Reason | str | None, seconds: float, now: float
    ) -> list[Effect]:
        """Write down what the enclave said of an update, once; tell the device of a refusal."""
        book, current = self.book, self.book.round
        update = current.updates.get(device) if current else None
        word = str(refused or "")
        status = "refused" if word else "admitted"
        if current is None or update is None or update.status == status:
            return []
        update.status = status
        current.done.add(device)
        settled = UpdateSettled(current.number, device, update.digest, word, seconds, now)
        if not word:
            return [Persist(settled)]
        current.refused[word] += 1
        book.refusals[word] += 1
        book.remember(device, update.digest, current.number, word)
        topic, receipt = book.receipt(device, update.digest, current.number, word)
        fields = {"device": device, "round": current.number, "reason": word}
        return [
            Persist(settled),
            Publish(topic, receipt),
            Log("warning", "the enclave refused an update", fields),
        ]

    def _refused(self, request: object, reply: Refused, seconds: float, now: float) -> list[Effect]:
        match request:
            case AdmitUpdate(device=device) if reply.reason not in _LOST_ROUND:
                self._flying.discard(device)
                effects = self._settle(device, reply.reason, seconds, now)
                return [
                    *effects,
                    Log("info", "refusal", {"device": device, "detail": reply.detail}),
                ]
            case OpenEnclaveRound() if reply.reason in _SPENT:
                return self._rounds.abandon(reply.reason, now)
            case ReleaseRound() if reply.reason not in _LOST_ROUND:
                return self._rounds.abandon(reply.reason, now)
        return self._retry(reply, now)

    def _released(self, reply: ReleasedModel, seconds: float, now: float) -> list[Effect]:
        """Verify the receipt and that the blobs are its own; then write down and publish."""
        book, current = self.book, self.book.round
        if current is None or current.offer is None or book.phase is not Phase.RELEASING:
            return []
        settings, claims = book.settings, current.offer.claims
        key = VerifyKey.parse(parse_suite(settings.manifest.suite), claims.signing_key)
        receipt = open_signed(RoundReceipt, reply.receipt, key)
        other = receipt.disagreement(claims)
        check(not other, f"the receipt names another {other}", Reason.WRONG_DIGEST)
        for ok, what in (
            (receipt.model == reply.weights, "model"),
            (receipt.state == reply.state, "optimiser state"),
        ):
            check(ok, f"the receipt names another {what}", Reason.WRONG_DIGEST)
        rows = classes_of(receipt.tallies)
        check(rows == settings.manifest.genesis.classes, f"{rows} classes", Reason.BAD_TALLIES)
        size = book.ledger.checkpoint.size
        book.ledger.append(reply.receipt, receipt.digest, receipt.previous_receipt)
        ready = sign(
            ModelReady(
                fleet=settings.fleet,
                receipt=reply.receipt,
                claims=claims,
                evidence=current.offer.evidence,
                checkpoint=book.ledger.checkpoint,
                inclusion=book.ledger.inclusion(size),
                consistency=book.ledger.consistency(size, size + 1),
                model_size=reply.weights_size,
            ),
            settings.key,
        )
        predecessor = Predecessor(reply.receipt, claims)
        release = LastRelease(
            current.number, predecessor, reply.weights, reply.state, ready, receipt.tallies
        )
        persist = Persist(
            RoundReleased(
                round=current.number,
                receipt=reply.receipt,
                receipt_digest=receipt.digest,
                previous_receipt=receipt.previous_receipt,
                model=reply.weights,
                model_size=reply.weights_size,
                state=reply.state,
                ledger_size=size,
                new_root=book.ledger.checkpoint.root,
                ready=ready,
                release_seconds=seconds,
                at=now,
            )
        )
        effects: list[Effect] = [persist]
        counted = {d: u.digest for d, u in current.updates.items() if u.status == "admitted"}
        if root(update_leaf(d, counted[d]) for d in sorted(counted)) != receipt.updates:
            fields = {"round": current.number, "admitted": len(counted)}
            effects.append(Log("error", "the receipt counts other updates than we do", fields))
        effects += self._rounds.released(release, receipt, reply.weights_size)
        kept = frozenset({*book.blobs, release.state})
        chunks = tuple(range(-(-reply.weights_size // CHUNK_MAX)))
        return [*effects, SendBlob(None, release.model, chunks), KeepBlobs(kept)]

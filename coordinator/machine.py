"""The coordinator's state machine: events in, effects out; no clock, no file, no socket.

Effects are performed in order, except that every Persist of a batch comes first: nothing is said
that isn't durable. After a crash at any point a machine is made again from the database, and goes
on with the same round; that is the only way to start.
"""

from enum import StrEnum

from coordinator.acceptance import Terms
from coordinator.book import Accepted, Book, LastRelease, Phase, Round, RunSettings
from coordinator.database import RoundRow, Snapshot
from coordinator.events import (
    DropUpdate,
    Effect,
    EnclaveDown,
    EnclaveReplied,
    EnclaveUp,
    Event,
    FannedOut,
    LinkDown,
    LinkUp,
    Log,
    OpenEnclaveRound,
    Persist,
    Received,
    RoundAbandoned,
    RoundClosed,
    RoundOpening,
    RoundPublished,
    Tick,
    TransferFinished,
)
from coordinator.exchange import Exchange
from coordinator.intake import Intake
from coordinator.metrics import Metrics
from qflare.effects import Publish
from qflare.enclave_wire import Predecessor
from qflare.envelope import open_signed, peek_signed
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.messages import ZERO, CoordinatorHello, ModelReady, RoundOffer, RoundReceipt
from qflare.names import DeviceId, Digest
from qflare.policy import RoundPolicy
from qflare.topics import All, AllTopic, build


class Cause(StrEnum):
    """Why a round moves on."""

    OPEN = "enough devices, the enclave and the broker are here"
    OFFERED = "the enclave opened the round"
    CLOSE = "everybody who is here is done, or the deadline"
    RELEASED = "the enclave released the model"
    ABANDON = "no model can come of this round"
    PUBLISHED = "the model went out"
    FINISHED = "the last round that was asked for"


# What leads where. A transition that isn't here is a bug, and `_move` says so.
TRANSITIONS: dict[tuple[Phase, Cause], Phase] = {
    (Phase.WAITING, Cause.OPEN): Phase.OPENING,
    (Phase.WAITING, Cause.FINISHED): Phase.DONE,
    (Phase.OPENING, Cause.OFFERED): Phase.COLLECTING,
    (Phase.OPENING, Cause.ABANDON): Phase.WAITING,
    (Phase.COLLECTING, Cause.CLOSE): Phase.RELEASING,
    (Phase.COLLECTING, Cause.ABANDON): Phase.WAITING,
    (Phase.RELEASING, Cause.RELEASED): Phase.PUBLISHING,
    (Phase.RELEASING, Cause.ABANDON): Phase.WAITING,
    (Phase.PUBLISHING, Cause.PUBLISHED): Phase.WAITING,
}

RESAY_FIRST_S = 15.0  # after something new was said to everybody; then twice as long each time
RESAY_LAST_S = 3600.0


class CoordinatorMachine:
    """Give it events in order; perform what it returns before the next batch."""

    def __init__(self, settings: RunSettings, snapshot: Snapshot, now: float) -> None:
        """Go on from what the database holds; raise LocalFault if that can't be read."""
        self.book = Book(settings, snapshot)
        self.intake = Intake(self.book)
        self.exchange = Exchange(self.book, self)
        self.metrics = Metrics(self.book)
        self._started_at = now
        self._open_after = now
        self._resay_s, self._resay_at = RESAY_FIRST_S, now
        self._resume(snapshot, now)

    # --- starting ------------------------------------------------------------------------------

    def _resume(self, snapshot: Snapshot, now: float) -> None:
        book = self.book
        for name, der in snapshot.certificates:
            try:
                book.registry.register(self.intake.verify_certificate(der, now), der)
            except PeerFault as fault:
                book.registry.refuse(name, fault.reason)
        try:
            if snapshot.released:
                book.last = self._last_release(snapshot.released)
            if snapshot.last and snapshot.last.status in ("opening", "collecting", "releasing"):
                book.round = self._open_round(snapshot.last, snapshot)
        except PeerFault as fault:
            raise LocalFault(
                f"the database doesn't belong to this coordinator's key and manifest ({fault}); "
                "restore the one that does"
            ) from None
        if book.round and snapshot.last:
            book.phase = Phase(snapshot.last.status)

    def _last_release(self, row: RoundRow) -> LastRelease:
        if row.ready is None or row.model is None or row.next_state is None:
            raise PeerFault(Reason.MALFORMED, f"round {row.number} is released without a model")
        ready = open_signed(ModelReady, row.ready, self.book.settings.key.verify_key)
        predecessor = Predecessor(ready.receipt, ready.claims)
        tallies = peek_signed(RoundReceipt, ready.receipt).tallies  # it is in what we signed
        return LastRelease(row.number, predecessor, row.model, row.next_state, row.ready, tallies)

    def _open_round(self, row: RoundRow, snapshot: Snapshot) -> Round:
        book = self.book
        last = book.last if row.predecessor else None
        if (last.number if last else 0) != row.predecessor:
            raise PeerFault(Reason.ROLLBACK, f"round {row.number} follows {row.predecessor}")
        request = OpenEnclaveRound(
            round=row.number,
            opened_at=row.opened_at,
            policy=RoundPolicy.parse(row.policy),
            candidates=row.candidates,
            predecessor=last.predecessor if last else None,
            weights=row.weights,
            state=row.state,
        )
        current = Round(request, opening_at=self._started_at)
        if row.offer is not None and row.closes_at is not None:
            offer = open_signed(RoundOffer, row.offer, book.settings.key.verify_key)
            self._adopt_offer(current, offer, row.offer, row.closes_at)
        for u in snapshot.updates:
            if u.round != row.number:
                continue
            if u.status != "accepted":
                current.done.add(u.device)
            if u.status == "refused":
                current.refused[u.reason] += 1
            if u.status != "refused" or u.settled:
                current.updates[u.device] = Accepted(u.digest, u.size, u.status)
        return current

    def _adopt_offer(
        self, current: Round, offer: RoundOffer, signed: bytes, closes_at: float
    ) -> None:
        current.offer, current.offer_bytes, current.closes_at = offer, signed, closes_at
        current.terms = Terms(offer.claims, self.book.settings.update_ceiling)

    def kept_updates(self) -> set[tuple[DeviceId, Digest]]:
        """The updates that the spool has to hold; whatever else is there is left over."""
        current = self.book.round
        return {(device, u.digest) for device, u in current.updates.items()} if current else set()

    # --- events --------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Return what is to be done about `event` at `now` (Unix seconds)."""
        match event:
            case Received():
                effects = self.intake.receive(event, now)
            case TransferFinished():
                effects = self.intake.finished(event, now)
            case LinkUp():
                effects = self._link_up(now)
            case LinkDown():
                self.book.link_up = False
                effects = []
            case EnclaveUp():
                effects = self.exchange.up()
            case EnclaveDown():
                effects = self.exchange.down()
            case EnclaveReplied():
                effects = self.exchange.replied(event, now)
            case FannedOut(model):
                effects = self._fanned_out(model, now)
            case Tick():
                effects = [*self.intake.tick(now), *self.exchange.tick(now), *self._resay(now)]
        effects += self._advance(event, now)
        return [*effects, *self.metrics.due(now)]

    def _link_up(self, now: float) -> list[Effect]:
        """Say everything that stands retained again: the broker may have lost it."""
        self.book.link_up = True
        self.book.registry.link_returned(now)
        self.metrics.forget()
        self._said_anew(now)
        hello = CoordinatorHello(self.book.settings.session)
        return [*self._retained(), Publish(self._all(All.HELLO), hello.to_bytes())]

    def _said_anew(self, now: float) -> None:
        """Something was said to everybody that a device can't do without."""
        self._resay_s, self._resay_at = RESAY_FIRST_S, now + RESAY_FIRST_S

    def _resay(self, now: float) -> list[Effect]:
        """Say what stands once more, ever more rarely, while somebody may have missed it: a broker
        drops what a queue can't hold, and who missed a manifest or a model has nothing to ask by.
        """
        if not self.book.link_up or now < self._resay_at:
            return []
        self._resay_s = min(2 * self._resay_s, RESAY_LAST_S)
        self._resay_at = now + self._resay_s
        return self._retained() if self._somebody_lacks_it() else []

    def _somebody_lacks_it(self) -> bool:
        """Is anybody online of whom nothing shows that what stands came?

        An update shows that the offer did, a report on the newest model that model and manifest
        did. To say it all again to a fleet that has it would be most of an idle device's traffic.
        """
        book, current = self.book, self.book.round
        online = set(book.registry.online())
        if current and current.offer and book.phase is Phase.COLLECTING:
            invited = online & set(current.offer.cohort) if current.offer.cohort else online
            if not invited <= current.done | current.updates.keys():
                return True
        return not online <= book.reports.keys()

    def _retained(self) -> list[Effect]:
        """Manifest, newest model, open offer (or that there is none), as they stand."""
        book, settings = self.book, self.book.settings
        effects: list[Effect] = [
            Publish(self._all(All.MANIFEST), settings.manifest_bytes, retain=True)
        ]
        if book.last:
            effects.append(Publish(self._all(All.MODEL), book.last.ready, retain=True))
        offered = book.round.offer_bytes if book.round and book.phase is Phase.COLLECTING else b""
        return [*effects, Publish(self._all(All.OFFER), offered, retain=True)]

    def _fanned_out(self, model: Digest, now: float) -> list[Effect]:
        last = self.book.last
        if self.book.phase is not Phase.PUBLISHING or last is None or model != last.model:
            return []
        self._move(Cause.PUBLISHED)
        self._said_anew(now)
        here = len(self.book.registry.online())
        self.book.bytes_down += self.book.blobs.get(model, 0) * here
        self._open_after = now + self.book.settings.pause_s
        return [Persist(RoundPublished(last.number, now))]

    # --- the round -----------------------------------------------------------------------------

    def _move(self, cause: Cause) -> None:
        following = TRANSITIONS.get((self.book.phase, cause))
        if following is None:
            raise LocalFault(f"{cause.name} can't happen while {self.book.phase}; report this bug")
        self.book.phase = following

    def _advance(self, event: Event, now: float) -> list[Effect]:
        """Do what the phase is waiting for, if it has come."""
        match self.book.phase:
            case Phase.WAITING:
                return self._maybe_open(now)
            case Phase.COLLECTING:
                if isinstance(event, Received):
                    return []  # only an admission, a tick or a reply can complete a round
                closing = self._close(now) if self._complete(now) else []
                return [*closing, *self.exchange.pump(now)]
            case Phase.RELEASING:
                return self.exchange.pump(now)
        return []

    def _maybe_open(self, now: float) -> list[Effect]:
        book, settings = self.book, self.book.settings
        if settings.rounds and book.released >= settings.rounds:
            self._move(Cause.FINISHED)
            return [Log("info", "run finished", {"rounds": book.released})]
        if not (book.link_up and self.exchange.ready) or now < self._open_after:
            return []
        online = book.registry.online()
        wanted = settings.policy.min_cohort
        if book.last_number == 0 and now < self._started_at + settings.wait_s:
            wanted = max(wanted, settings.expect_devices)
        if len(online) < wanted:
            return []
        last = book.last
        request = OpenEnclaveRound(
            round=book.last_number + 1,
            opened_at=int(now),
            policy=settings.policy,
            candidates=tuple(online) if settings.cohort else (),
            predecessor=last.predecessor if last else None,
            weights=last.model if last else settings.manifest.genesis.weights,
            state=last.state if last else ZERO,
        )
        predecessor = last.number if last else 0
        book.round = Round(request, opening_at=now)
        book.last_number = request.round
        self._move(Cause.OPEN)
        renewed = self.intake.take_renewed(now)
        opening = Persist(RoundOpening(request, predecessor, now))
        return [*renewed, opening, *self.exchange.open(request)]

    def offered(
        self, offer: RoundOffer, signed: bytes, closes_at: float, now: float
    ) -> list[Effect]:
        """The enclave opened the round, and the offer is being written down: it may go out."""
        if self.book.round is None:
            raise LocalFault("an offer without a round; report this bug")
        self._said_anew(now)
        self._adopt_offer(self.book.round, offer, signed, closes_at)
        self._move(Cause.OFFERED)
        return [Publish(self._all(All.OFFER), signed, retain=True)]

    def _complete(self, now: float) -> bool:
        """Is there nothing more to wait for in this round?"""
        book, current = self.book, self.book.round
        if current is None or current.offer is None:
            return False
        if now >= current.closes_at:
            return True
        admitted = current.admitted
        if not book.link_up or current.pending or admitted < current.request.policy.min_cohort:
            return False
        if admitted >= current.request.policy.max_cohort:
            return True
        here = book.registry.here(now, current.offer.cohort)
        return bool(here) and here <= current.done

    def _close(self, now: float) -> list[Effect]:
        current = self.book.round
        if current is None:
            return []
        self._move(Cause.CLOSE)
        dropped = self.book.transfers.clear()
        return [
            Persist(RoundClosed(current.number, now)),
            Publish(self._all(All.OFFER), b"", retain=True),
            *(DropUpdate(t.device, t.offer.transfer) for t in dropped),
        ]

    def released(self, release: LastRelease, receipt: RoundReceipt, size: int) -> list[Effect]:
        """The model is being written down: it may go out."""
        book, current = self.book, self.book.round
        if current is None:
            raise LocalFault("a release without a round; report this bug")
        self._move(Cause.RELEASED)
        book.last, book.round = release, None
        book.models.append((release.model, size))
        book.released += 1
        book.reports.clear()
        fields = {"round": receipt.round, "step": receipt.step, "admitted": receipt.admitted}
        return [
            Publish(self._all(All.MODEL), release.ready, retain=True),
            *(DropUpdate(device, u.digest) for device, u in current.updates.items()),
            Log("info", "round released", fields),
        ]

    def abandon(self, reason: str, now: float) -> list[Effect]:
        """Nothing can come of this round; the next one gets the next number."""
        book, current = self.book, self.book.round
        if current is None:
            return []
        self._move(Cause.ABANDON)
        book.round = None
        book.abandoned += 1
        self._open_after = now + max(1.0, book.settings.pause_s)
        dropped = book.transfers.clear()
        fields = {"round": current.number, "reason": reason, "admitted": current.admitted}
        return [
            Persist(RoundAbandoned(current.number, reason, now)),
            Publish(self._all(All.OFFER), b"", retain=True),
            *(DropUpdate(t.device, t.offer.transfer) for t in dropped),
            *(DropUpdate(device, u.digest) for device, u in current.updates.items()),
            Log("warning", "round abandoned", fields),
        ]

    def _all(self, kind: All) -> str:
        return build(AllTopic(self.book.settings.fleet, kind))

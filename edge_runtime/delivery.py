"""From the outbox to a receipt, and from a receipt to the proof that the update counted."""

from dataclasses import replace

from edge_runtime.events import Settle
from edge_runtime.memory import Fate, JournalEntry, RoundStats
from edge_runtime.proving import Proving
from edge_runtime.state import State
from qflare.envelope import open_signed
from qflare.faults import PeerFault, Reason
from qflare.messages import ReceiptStatus, UpdateReceipt
from qflare.names import Digest
from qflare.record import check
from qflare.topics import Up, UpChunk
from qflare.transfer import Grant, InclusionAnswer


class Delivery:
    """What happens to updates that were made."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._proving: Proving | None = None
        self._unproven: Digest | None = None  # nobody proved it; asking on would be noise

    def reconnect(self) -> None:
        """Everything is offered and asked again."""
        self._state.uploads.again()
        if self._proving:
            self._proving.again()

    def tick(self) -> None:
        """Offer what nobody granted, and ask for the proof that nobody gave."""
        state = self._state
        if not state.online:
            return
        if not state.traffic.quiet:
            for offer in state.uploads.offers(state.now):
                state.say(Up.OFFER, offer)
            self._send_chunks()
        if self._proving is None:
            return
        ask = self._proving.ask(state.now)
        if ask is not None:
            state.say(Up.ASK, ask)
        elif self._proving.exhausted:
            self._give_up_proving()

    def _give_up_proving(self) -> None:
        state, it = self._state, self._proving
        self._proving = None
        if it is not None:
            self._unproven = it.update
            state.counters["inclusion_unproven"] += 1
            state.note("error", "nobody proves that the update counted", round=it.receipt.round)

    def grant(self, payload: bytes) -> None:
        """Send what the coordinator has room for, as fast as we may."""
        self._state.uploads.grant(Grant.parse(payload), self._state.now)
        if not self._state.traffic.quiet:
            self._send_chunks()

    def _send_chunks(self) -> None:
        state = self._state
        if not state.online:
            return
        for update, index, chunk in state.uploads.due(state.traffic.up, state.now):
            state.publish(UpChunk(state.settings.fleet, state.device, update, index), chunk)

    def receipt(self, payload: bytes) -> None:
        """The coordinator's signed word ends a transfer, accepted or refused."""
        state = self._state
        check(state.trust.ready, "a receipt before the owner manifest", Reason.WRONG_OFFER)
        receipt = open_signed(UpdateReceipt, payload, state.trust.coordinator_key)
        ours = receipt.fleet == state.settings.fleet and receipt.device == state.device
        check(ours, "somebody else's receipt", Reason.WRONG_OFFER)
        upload = state.uploads.get(receipt.update)
        if upload is None:
            known = any(entry.update == receipt.update for entry in state.journal.values())
            check(known, "a receipt for no update of ours", Reason.WRONG_DIGEST)
            return
        check(receipt.round == upload.entry.round, "receipt", Reason.WRONG_ROUND)
        state.uploads.drop(receipt.update)
        accepted = receipt.status is ReceiptStatus.ACCEPTED
        entry = state.journal.get(receipt.round)
        stats = entry.stats if entry else RoundStats()
        if upload.began is not None:
            stats = stats.with_stage("transfer", state.now - upload.began)
        fate = Fate.ACCEPTED if accepted else Fate.REFUSED
        self._write(receipt.round, receipt.update, fate, stats, (("accepted", payload),))
        state.counters["updates_accepted" if accepted else "updates_refused"] += 1
        state.note(
            "info" if accepted else "error",
            "update accepted" if accepted else "update refused",
            round=receipt.round,
            update=receipt.update.short,
            reason=receipt.reason[:40],
        )
        self.prove()

    def _write(
        self,
        round_: int,
        update: Digest,
        fate: Fate,
        stats: RoundStats,
        proofs: tuple[tuple[str, bytes], ...],
    ) -> None:
        state = self._state
        entry = state.journal.get(round_)
        if entry is not None:
            entry = replace(entry, fate=fate, stats=stats)
        else:
            entry = JournalEntry(round_, state.memory.answered_claims, update, fate, stats)
        state.keep_journal(entry)
        state.emit(Settle(update, fate, stats, proofs))

    def prove(self) -> None:
        """Start asking for the proof if the round of an accepted update is released by now."""
        state = self._state
        released = state.memory.receipt
        entry = state.journal.get(released.round) if released else None
        if released is None or entry is None or entry.fate is not Fate.ACCEPTED:
            return
        if entry.update == self._unproven:
            return
        if self._proving is None or self._proving.update != entry.update:
            self._proving = Proving(state.device, entry.update, released)
        self.tick()

    def inclusion(self, answer: InclusionAnswer) -> None:
        """Verify the proof; a wrong one is as loud as it gets."""
        state, it = self._state, self._proving
        if it is None:
            entry = state.journal.get(answer.round)
            again = entry is not None and entry.update == answer.update
            check(again, "a proof that nobody asked for", Reason.WRONG_OFFER)
            return
        try:
            it.verify(answer)
        except PeerFault as fault:
            if fault.reason is Reason.BAD_PROOF:
                state.counters["inclusion_failed"] += 1
                state.refuse("inclusion", fault, level="error")
                return
            raise
        self._proving = None
        state.counters["inclusion_verified"] += 1
        entry = state.journal[it.receipt.round]
        receipt, said = state.release
        proofs = [("counted", answer.to_bytes())]
        if receipt == it.receipt.digest:
            proofs.append(("release", said))
        self._write(entry.round, entry.update, Fate.COUNTED, entry.stats, tuple(proofs))
        state.note("info", "update counted", round=entry.round, update=entry.update.short)

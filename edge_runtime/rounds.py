"""From an accepted offer to an update in the outbox."""

from edge_runtime.events import BlobLost, Commit, StopTraining, Train, TrainingFailed
from edge_runtime.events import TrainingFinished as Finished
from edge_runtime.memory import Fate, JournalEntry, OutboxEntry
from edge_runtime.state import OUTBOX_KEPT, State
from edge_runtime.trusted_round import TrustedRound, VerifiedRound
from qflare.faults import PeerFault, Reason
from qflare.messages import ZERO
from qflare.names import Digest


class Rounds:
    """The one round that this device works on, if any."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._round: VerifiedRound | None = None
        self._began = 0.0
        self._fetched = 0.0
        self._training = False
        self._failed = ZERO  # claims of the last round that came to nothing here

    @property
    def fetching(self) -> bool:
        return self._round is not None and not self._training

    @property
    def training(self) -> bool:
        return self._training

    @property
    def weights(self) -> Digest | None:
        """The model that the current round starts from."""
        return self._round.offer.claims.model if self._round else None

    def appraise(self) -> None:
        """Judge the offers that wait."""
        state = self._state
        for verdict in state.appraiser.rounds(state.refuse):
            if isinstance(verdict, TrustedRound):
                state.uploads.again()
            else:
                self._accept(verdict)

    def _accept(self, it: VerifiedRound) -> None:
        state, current = self._state, self._round
        round_ = it.offer.round
        if not it.invited:
            state.note("info", "not invited", round=round_)
            self.abandon("another round began")
            return
        if it.claims == self._failed:
            return
        if current is not None and current.offer.round >= round_:
            if current.claims == it.claims:
                return
            reason = Reason.EQUIVOCATION if current.offer.round == round_ else Reason.WRONG_ROUND
            state.counters["equivocations"] += reason is Reason.EQUIVOCATION
            state.refuse("offer", PeerFault(reason, f"while round {current.offer.round} is on"))
            return
        self.abandon(f"round {round_} began")
        self._round, self._began, self._failed = it, state.now, ZERO
        state.counters["offers_accepted"] += 1
        state.note(
            "info",
            "offer accepted",
            round=round_,
            model=it.offer.claims.model.short,
            evidence=it.evidence.provider,
            tier=it.evidence.tier.name.lower(),
        )
        self.proceed()

    def proceed(self) -> None:
        """Train as soon as everything is here."""
        state = self._state
        if self._round is None or self._training:
            return
        offer = self._round.offer
        if not state.want_model(offer.claims.model):
            return
        self._training, self._fetched = True, state.now
        genesis = state.manifest.genesis
        state.emit(Train(offer.claims, offer.policy, genesis.graph))

    def abandon(self, why: str) -> None:
        """Stop working on the current round; what was committed stays in the outbox."""
        state = self._state
        if self._round is None:
            return
        round_ = self._round.offer.round
        if self._training:
            state.emit(StopTraining(round_))
            state.counters["trainings_stopped"] += 1
        state.note("info", "round given up", round=round_, why=why)
        self._round, self._training = None, False

    def overtaken(self, released: int) -> None:
        """A model of round `released` is out: working on that round or an earlier one is vain."""
        if self._round is not None and self._round.offer.round <= released:
            self.abandon(f"round {released} was released")

    def finished(self, event: Finished) -> None:
        """Commit what the worker made, unless its round has passed."""
        state, it = self._state, self._round
        if not self._training or it is None or it.claims != event.claims:
            state.note("info", "update too late", round=event.round)
            return
        stats = event.stats.with_stage("appraise", state.appraiser.appraise_seconds)
        stats = stats.with_stage("fetch", self._fetched - self._began)
        update = Digest.of(event.update)
        entry = OutboxEntry(event.round, update, state.chunk, event.update)
        journal = JournalEntry(event.round, event.claims, update, Fate.WAITING, stats)
        memory = state.memory.with_answer(event.round, event.claims)
        state.emit(Commit(entry, journal, event.residual, memory, event.personal))
        state.memory = memory
        state.keep_journal(journal)
        state.uploads.put(entry, state.now)
        for old in state.uploads.oldest(OUTBOX_KEPT):
            state.overtake(old, waiting=OUTBOX_KEPT)
        state.counters["updates_made"] += 1
        self._round, self._training = None, False

    def failed(self, event: TrainingFailed) -> None:
        """No update this time; the next round works."""
        state, it = self._state, self._round
        if it is None or not self._training or it.claims != event.claims or event.stopped:
            return
        state.counters["trainings_failed"] += 1
        state.note("error", "training failed", round=event.round, reason=event.reason)
        self._failed, self._round, self._training = it.claims, None, False

    def blob_lost(self, event: BlobLost) -> None:
        """Fetch it again if the current round needs it."""
        it = self._round
        if it is None:
            return
        genesis = self._state.manifest.genesis
        if event.blob in (it.offer.claims.model, genesis.graph):
            self._training = False

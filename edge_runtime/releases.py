"""From a verified release to a model in its slot, and the word about it."""

from collections.abc import Callable
from math import isfinite

from edge_runtime.acceptance import Scores, judge
from edge_runtime.download import FANOUT_S
from edge_runtime.events import (
    Activate,
    Evaluate,
    Evaluated,
    EvaluationFailed,
    KeepBlobs,
    Refuse,
    SaveMemory,
    SlotLost,
)
from edge_runtime.memory import RoundStats
from edge_runtime.state import State
from edge_runtime.trusted_model import VerifiedModel
from qflare.envelope import sign
from qflare.messages import ZERO, Telemetry
from qflare.names import Digest
from qflare.topics import Up

AGAIN_FIRST_S = 60.0  # after a check that failed for a reason of this machine; then twice as long
AGAIN_LAST_S = 6 * 3600.0


class Releases:
    """The newest verified model on its way into the active slot.

    What a crash interrupts is done again: a model counts as active once its slot is, so the slot is
    switched before the memory says so.
    """

    def __init__(self, state: State, refused: frozenset[Digest]) -> None:
        self._state = state
        self._model: Digest | None = None  # not active yet
        self._running = False
        self._refused = refused
        self._again_s, self._again_at = AGAIN_FIRST_S, 0.0
        self._telemetry: bytes | None = None

    def appraise(self, retained: bool, overtaken: Callable[[int], None]) -> None:
        """Judge the models that wait; `overtaken` hears of each round that was released."""
        state = self._state
        for verdict in state.appraiser.models(state.refuse):
            self._accept(verdict, retained)
            overtaken(verdict.receipt.round)

    def _accept(self, it: VerifiedModel, retained: bool) -> None:
        state, receipt = self._state, it.receipt
        state.release = receipt.digest, it.said
        if not it.known:
            state.emit(SaveMemory(state.memory))
            state.counters["models_verified"] += 1
            state.note(
                "info",
                "model verified",
                round=receipt.round,
                model=receipt.model.short,
                admitted=receipt.admitted,
            )
            for entry in state.uploads.before(receipt.round):
                state.overtake(entry, released=receipt.round)
            # A released round whose receipt didn't come: asking once more brings it, or a refusal.
            state.uploads.again()
        if receipt.model in (state.memory.active, self._model) or receipt.model in self._refused:
            return
        self._take(receipt.model)
        state.want_model(receipt.model, 0.0 if retained else FANOUT_S)
        self.proceed()

    def _take(self, model: Digest) -> None:
        self._model, self._running = model, False
        self._again_s, self._again_at = AGAIN_FIRST_S, 0.0

    @property
    def weights(self) -> Digest | None:
        """The model that waits for its check."""
        return self._model

    def proceed(self) -> None:
        """Check the model as soon as everything is here."""
        state = self._state
        if self._model is None:
            self._begin()
        if self._model is None or self._running or state.now < self._again_at:
            return
        fanned_out = state.memory.receipt is not None
        if not state.want_model(self._model, FANOUT_S if fanned_out else 0.0):
            return
        self._running = True
        genesis = state.manifest.genesis
        state.emit(Evaluate(self._model, genesis.graph))

    def _begin(self) -> None:
        """Until there is a release, applications use the model that the owner began with."""
        state = self._state
        memory, genesis = state.memory, state.manifest.genesis.weights
        new = memory.active == ZERO and memory.receipt is None
        if state.settings.serving and new and genesis not in self._refused:
            self._take(genesis)
            self._again_at = state.now + FANOUT_S  # a release may be on its way

    def blob_lost(self) -> None:
        """The check will be repeated once everything is here again."""
        self._running = False

    def evaluated(self, event: Evaluated) -> None:
        """The model works here. If it is good enough, switch the slots; tell how good it is."""
        state = self._state
        if event.model != self._model:
            return
        verdict = judge(event.scores, event.before, state.settings.bounds, event.counted)
        if not verdict.accepted:
            self._refuse(event.model, verdict.reason)
            self._tell(event.model, event.scores, event.seconds, event.rss_kb)
            return
        self._model, self._running = None, False
        state.emit(Activate(event.model, self._round_of(event.model)))
        state.memory = state.memory.with_active(event.model)
        state.emit(SaveMemory(state.memory))
        state.counters["models_active"] += 1
        state.note(
            "info",
            "model active",
            round=self._round_of(event.model),
            model=event.model.short,
            examples=event.examples,
            correct=event.correct,
            why=verdict.reason,
        )
        self._tell(event.model, event.scores, event.seconds, event.rss_kb)

    def failed(self, event: EvaluationFailed) -> None:
        """The model before stays active. If this machine is to blame, the check is repeated."""
        state = self._state
        if event.model != self._model:
            return
        if event.verdict:
            self._refuse(event.model, event.reason)
            self._tell(event.model, Scores(0, 0, 0.0), 0.0, 0)
            return
        state.counters["models_failed"] += 1
        self._later("model could not be checked", event.model, event.reason)

    def slot_lost(self, event: SlotLost) -> None:
        """An accepted model has to be made usable again; a newer one does as well."""
        if self._model is None and event.model not in self._refused:
            self._take(event.model)
            self._state.counters["slots_lost"] += 1
            self._later("slot lost", event.model, event.reason)

    def _later(self, event: str, model: Digest, reason: str) -> None:
        """Check the model again, after longer each time."""
        state, wait = self._state, self._again_s
        self._running, self._again_at = False, state.now + wait
        self._again_s = min(2 * wait, AGAIN_LAST_S)
        state.note("error", event, model=model.short, reason=reason, again_in_s=round(wait))

    def _refuse(self, model: Digest, reason: str) -> None:
        state = self._state
        self._model, self._running = None, False
        self._refused |= {model}
        state.counters["models_refused"] += 1
        state.emit(Refuse(model, reason))
        state.note("error", "model refused", model=model.short, reason=reason)

    def _round_of(self, model: Digest) -> int:
        """The round that gave it; 0 if that isn't known any more."""
        receipt = self._state.memory.receipt
        return receipt.round if receipt is not None and receipt.model == model else 0

    def keep_blobs(self, also: Digest | None) -> None:
        """Forget every blob that neither a slot nor anything that is going on needs."""
        state, wanted = self._state, self._wanted(also)
        dropped = state.downloads.keep(wanted)
        if dropped or state.have - wanted:
            state.have &= wanted
            state.emit(KeepBlobs(frozenset(wanted)))

    def keep_downloads(self, also: Digest | None) -> None:
        """Fetch nothing on that a newer release has made needless."""
        state = self._state
        if not state.trust.ready:
            return
        wanted = self._wanted(also) | state.have
        if state.downloads.keep(wanted):
            state.emit(KeepBlobs(frozenset(wanted)))

    def _wanted(self, also: Digest | None) -> set[Digest]:
        genesis, memory = self._state.manifest.genesis, self._state.memory
        newest = genesis.weights if memory.receipt is None else memory.receipt.model
        wanted = {genesis.graph, memory.active, memory.previous, newest}
        wanted |= {blob for blob in (also, self._model) if blob is not None}
        return wanted - {ZERO}

    def _tell(self, model: Digest, scores: Scores, seconds: float, rss_kb: int) -> None:
        state, receipt = self._state, self._state.memory.receipt
        if receipt is None or receipt.model != model:
            return
        if not isfinite(scores.loss_sum):
            scores = Scores(0, 0, 0.0)
        entry = state.journal.get(receipt.round)
        stats = entry.stats if entry else RoundStats()
        stats = stats.with_stage("evaluate", seconds)
        counters = dict(stats.counters) | {"rss_kb": rss_kb}
        counters |= {f"total_{k}": n for k, n in state.counters.items() if n and _of_note(k)}
        telemetry = Telemetry(
            fleet=state.settings.fleet,
            device=state.device,
            round=receipt.round,
            model=model,
            examples=scores.examples,
            correct=scores.correct,
            loss_sum=scores.loss_sum,
            stages=stats.stages,
            counters=tuple(sorted(counters.items())),
        )
        self._telemetry = sign(telemetry, state.settings.identity.key)
        self.say_again()

    def say_again(self) -> None:
        """The last word on a model, for whoever may have missed it."""
        if self._telemetry is not None:
            self._state.say(Up.TELEMETRY, self._telemetry)


def _of_note(name: str) -> bool:
    return name in (
        "refused",
        "equivocations",
        "trainings_failed",
        "inclusion_failed",
        "models_refused",
        "slots_lost",
    )

"""From a verified release to a model in its slot, and the word about it."""

from collections.abc import Callable

from edge_runtime.download import FANOUT_S
from edge_runtime.events import Evaluate, Evaluated, EvaluationFailed, KeepBlobs, SaveMemory, Settle
from edge_runtime.memory import Fate, RoundStats
from edge_runtime.state import State
from edge_runtime.trusted_model import VerifiedModel
from qflare.envelope import sign
from qflare.messages import ZERO, Telemetry
from qflare.names import Digest
from qflare.topics import Up


class Releases:
    """The newest verified model on its way into the active slot."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._model: Digest | None = None  # not active yet
        self._running = False
        self._bad = ZERO  # the model that failed its check
        self._telemetry: bytes | None = None

    def appraise(self, retained: bool, overtaken: Callable[[int], None]) -> None:
        """Judge the models that wait; `overtaken` hears of each round that was released."""
        state = self._state
        for verdict in state.appraiser.models(state.refuse):
            self._accept(verdict, retained)
            overtaken(verdict.receipt.round)

    def _accept(self, it: VerifiedModel, retained: bool) -> None:
        state, receipt = self._state, it.receipt
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
            self._drop_overtaken(receipt.round)
            # A released round whose receipt didn't come: asking once more brings it, or a refusal.
            state.uploads.again()
        if receipt.model in (state.memory.active, self._model, self._bad):
            return
        self._model, self._running = receipt.model, False
        state.want_model(receipt.model, 0.0 if retained else FANOUT_S)
        self.proceed()

    def _drop_overtaken(self, released: int) -> None:
        """Updates of earlier rounds can't count any more."""
        state = self._state
        for entry in state.uploads.before(released):
            state.uploads.drop(entry.update)
            old = state.journal.get(entry.round)
            state.emit(Settle(entry.update, Fate.OVERTAKEN, old.stats if old else RoundStats()))
            state.counters["updates_overtaken"] += 1
            state.note("warning", "update overtaken", round=entry.round, released=released)

    @property
    def weights(self) -> Digest | None:
        """The model that waits for its check."""
        return self._model

    def proceed(self) -> None:
        """Check the model as soon as everything is here."""
        state = self._state
        if self._model is None or self._running or not state.want_model(self._model, FANOUT_S):
            return
        self._running = True
        genesis = state.manifest.genesis
        state.emit(Evaluate(self._model, genesis.graph))

    def blob_lost(self) -> None:
        """The check will be repeated once everything is here again."""
        self._running = False

    def evaluated(self, event: Evaluated) -> None:
        """The model works here: swap the slots and tell how good it is."""
        state = self._state
        if event.model != self._model:
            return
        self._model, self._running = None, False
        state.memory = state.memory.with_active(event.model)
        state.emit(SaveMemory(state.memory))
        state.counters["models_active"] += 1
        self._tell(event)

    def failed(self, event: EvaluationFailed) -> None:
        """The model before stays active."""
        state = self._state
        if event.model != self._model:
            return
        self._bad, self._model, self._running = event.model, None, False
        state.counters["models_failed"] += 1
        state.note("error", "model failed its check", model=event.model.short, reason=event.reason)

    def keep_blobs(self, also: Digest | None) -> None:
        """Forget every blob that neither a slot nor anything that is going on needs."""
        state = self._state
        genesis, memory = state.manifest.genesis, state.memory
        wanted = {genesis.graph, memory.active, memory.previous}
        if memory.receipt is None:
            wanted.add(genesis.weights)
        else:
            wanted.add(memory.receipt.model)
        wanted |= {blob for blob in (also, self._model) if blob is not None}
        state.downloads.keep(wanted)
        if state.have - wanted:
            state.have &= wanted
            state.emit(KeepBlobs(frozenset(wanted - {ZERO})))

    def _tell(self, event: Evaluated) -> None:
        state, receipt = self._state, self._state.memory.receipt
        if receipt is None or receipt.model != event.model:
            return
        entry = state.journal.get(receipt.round)
        stats = entry.stats if entry else RoundStats()
        stats = stats.with_stage("evaluate", event.seconds)
        counters = dict(stats.counters) | {"rss_kb": event.rss_kb}
        counters |= {f"total_{k}": n for k, n in state.counters.items() if n and _of_note(k)}
        telemetry = Telemetry(
            fleet=state.settings.fleet,
            device=state.device,
            round=receipt.round,
            model=event.model,
            examples=event.examples,
            correct=event.correct,
            loss_sum=event.loss_sum,
            stages=stats.stages,
            counters=tuple(sorted(counters.items())),
        )
        self._telemetry = sign(telemetry, state.settings.identity.key)
        state.note(
            "info",
            "model active",
            round=receipt.round,
            model=event.model.short,
            examples=event.examples,
            correct=event.correct,
        )
        self.say_again()

    def say_again(self) -> None:
        """The last word on a model, for whoever may have missed it."""
        if self._telemetry is not None:
            self._state.say(Up.TELEMETRY, self._telemetry)


def _of_note(name: str) -> bool:
    return name in ("refused", "equivocations", "trainings_failed", "inclusion_failed")

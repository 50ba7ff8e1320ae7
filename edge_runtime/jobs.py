"""A device's share of the training process: what is ordered of it, and what comes of that."""

from pathlib import Path

import msgspec

from edge_runtime import events as ev
from edge_runtime.config import EdgeConfig
from edge_runtime.sealing import Identity
from edge_runtime.store import Store
from edge_runtime.training import answers
from edge_runtime.training.messages import Bench, EvaluateOrder, TrainOrder
from edge_runtime.training.service import Job, Training


class Jobs:
    """At most one training at a time, which may be held, and checks of models."""

    def __init__(self, training: Training, identity: Identity) -> None:
        self._training, self.identity = training, identity
        self._bench: Bench
        self._round: tuple[int, Job] | None = None  # that trains, or waits for its turn
        self.held = ""  # why training is paused

    def configure(self, config: EdgeConfig, samples_key: bytes | None) -> None:
        """Take from a configuration what the next job is done by."""
        state, training = config.device.state_dir, config.training
        self._bench = Bench(
            self.identity.device,
            str(blobs_of(state)),
            str(state),
            msgspec.json.encode(config.data, enc_hook=str),
            training.insecure_seed,
            float(training.max_seconds),
            float(training.duty),
            samples_key,
        )

    @property
    def doing(self) -> str:
        """What the training is at, in words; empty if there is none."""
        if self._round is None:
            return ""
        number, job = self._round
        said = f"training round {number}"
        if not job.stage:
            return said + ", its turn is yet to come"
        return said + (f", step {job.steps}" if job.stage == "training" else f", {job.stage}")

    @property
    def at_work(self) -> bool:
        """Does a training run that has begun?"""
        begun = self._round is not None and self._round[1].stage not in ("", "preparing")
        return begun and not self.held

    def hold(self, reason: str) -> None:
        """Pause the training, for this reason; it loses nothing."""
        self.held = reason
        if self._round is not None:
            self._round[1].hold()

    def resume(self) -> None:
        self.held = ""
        if self._round is not None:
            self._round[1].resume()

    def stop(self, round_: int | None = None) -> None:
        """End the training, if it is of this round; of any if none is named."""
        if self._round is not None and round_ in (None, self._round[0]):
            self._round[1].stop()

    async def train(self, effect: ev.Train, store: Store) -> ev.Event:
        """Train and seal; raises StoreFault if the store can't be read."""
        claims, policy = effect.claims, effect.policy
        order = TrainOrder(
            self._training.next_job,
            self._bench,
            effect.graph,
            claims.model,
            claims.step,
            policy.schedule,
            policy.codec,
            policy.clip_norm,
            policy.weight_cap,
            store.residual(),
            store.personal(),
        )
        ceiling = answers.ceiling(Path(self._bench.blobs), order)
        shortage = store.shortage(ceiling)
        if shortage is not None:
            return ev.TrainingFailed(effect.round, claims.digest, shortage)
        job = self._training.submit(order, ceiling)
        mine = self._round = (effect.round, job)
        if self.held:
            job.hold()
        try:
            result = await job.result
        finally:
            job.stop()
            if self._round is mine:
                self._round = None
        return answers.of_training(result, effect, self.identity)

    async def evaluate(self, effect: ev.Evaluate, store: Store, slots: str) -> ev.Event:
        """Check a model, and stage it in the slots of this directory."""
        mine = store.personal()
        number = self._training.next_job
        order = EvaluateOrder(number, self._bench, effect.graph, effect.model, mine, slots)
        job = self._training.submit(order, 0)
        try:
            result = await job.result
        finally:
            job.stop()
        return answers.of_evaluation(result, effect)


def blobs_of(state_dir: Path) -> Path:
    """Where the store of this directory keeps its blobs."""
    return state_dir / "blobs"

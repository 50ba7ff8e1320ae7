"""Local training inside the TFLite interpreter, by the model's own `train` signature."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import ModelContract
from edge_runtime.engine import Batch, Engine
from edge_runtime.evaluation import EvalResult
from edge_runtime.features import Computed, FeatureFile, Kept, compute_features
from edge_runtime.golden import self_test
from edge_runtime.pacing import Pace, Unpaced
from edge_runtime.seeds import Draw, generator
from edge_runtime.sources.base import Examples, Order, Rows, Values
from qflare.faults import LocalFault
from qflare.host.model import read_model
from qflare.schedule import Schedule
from qflare.tensors import FloatVector

LOSS_MAX: Final = 1e3  # a batch's mean loss; guessing among 1,024 classes costs 6.9
WEIGHT_MAX: Final = 1e15  # some kernels stop at the largest float32 where others give infinity
_UNCLIPPED: Final = 1e9  # an example's gradient never is as long as this


class Diverged(LocalFault):
    """Training left the numbers that mean anything; nothing of it may be sent."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(
            f"training diverged at step {step}, loss {loss:.6g}; lower the learning rate, and "
            "scale inputs and targets to about 1"
        )
        self.step = step
        self.loss = loss


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train: what the round's schedule says, and where the randomness comes from.

    One `seed` (64 bits) gives the order of the examples and dropout's noise. The noise of private
    training is the operating system's unless `insecure_noise`, for whoever knows it can take it
    off again.
    """

    learning_rate: float
    epochs: int
    seed: int = field(repr=False)
    proximal_mu: float = 0.0  # of FedProx; 0 is plain federated averaging
    example_clip: float = 0.0  # L2 norm of an example's gradient; 0 is no limit
    noise_multiplier: float = 0.0  # standard deviation of the noise, in units of example_clip
    insecure_noise: bool = False

    def verify_suits(self, contract: ModelContract) -> None:
        """Raise LocalFault if the model can't do what the schedule asks."""
        if self.epochs < 1:
            raise LocalFault("the schedule asks for no epochs; ask for one at least")
        if (self.example_clip or self.noise_multiplier) and not contract.manifest.private:
            raise LocalFault(
                f"the policy asks for clipping of each example, which {contract.name} can't do; "
                "build the model with --private, or set example_clip to 0"
            )
        if self.noise_multiplier and not self.example_clip:
            raise LocalFault("noise without clipping protects nobody; set example_clip too")


def plan_of(schedule: Schedule, step: int, seed: int, *, insecure_noise: bool) -> Plan:
    """How the schedule wants this step trained."""
    return Plan(
        learning_rate=schedule.learning_rate_at(step),
        epochs=schedule.local_epochs,
        seed=seed,
        proximal_mu=schedule.proximal_mu,
        example_clip=schedule.example_clip,
        noise_multiplier=schedule.noise_multiplier,
        insecure_noise=insecure_noise,
    )


@dataclass(frozen=True, slots=True, eq=False)
class TrainResult:
    """What local training gave."""

    weights: FloatVector  # (size,), finite
    personal: FloatVector  # (personal size,), finite; these stay here
    examples: int  # different examples trained on
    steps: int
    loss_first: float  # mean over the first epoch, while it was being trained
    loss_last: float  # mean over the last epoch
    seconds: float


class Trainer:
    """One interpreter over one model; any weights may be trained in it, one call at a time.

    Flat weights are float32 (size,) in the manifest's order, personal ones likewise; None are those
    that the model file starts from. Examples are read a batch at a time. A call from a second
    thread while one runs raises LocalFault, and so does one from a forked process.
    """

    def __init__(
        self,
        contract: ModelContract,
        tflite: bytes,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`contract` must come from these very bytes, by `parse_contract`."""
        self.contract = contract
        self._clock = clock
        self._engine = Engine(contract, tflite, threads)
        self._tflite = tflite  # the interpreter keeps these bytes anyway

    def train(
        self,
        weights: FloatVector,
        examples: Examples,
        plan: Plan,
        *,
        personal: FloatVector | None = None,
        pace: Pace | None = None,
    ) -> TrainResult:
        """Train for whole epochs, each in an order drawn from the plan's seed.

        The same arguments on the same machine give the same bits, however the pace was. Raises
        Diverged, what the pace raises, or LocalFault if there is nothing to train on.
        """
        plan.verify_suits(self.contract)
        if not len(examples):
            raise LocalFault("there are no samples to train on; give the device data")
        engine, pace = self._engine, pace or Unpaced()
        with engine.alone():
            started = self._clock()
            engine.load(weights, self._personal(personal))
            run = _Run(engine, self._readable(examples), plan, pace)
            means = [run.epoch() for _ in range(plan.epochs)]
            trained, mine = engine.weights()
            seconds = self._clock() - started
        for values in (trained, mine):
            if not np.abs(values).max(initial=0.0) <= WEIGHT_MAX:  # so spelled for NaN's sake
                raise Diverged(run.steps, means[-1])
        return TrainResult(trained, mine, len(examples), run.steps, means[0], means[-1], seconds)

    def evaluate(
        self,
        weights: FloatVector,
        examples: Examples,
        *,
        personal: FloatVector | None = None,
        rows: Rows | None = None,
        pace: Pace | None = None,
    ) -> EvalResult:
        """Loss and hits of `weights` on these rows of the examples, else on all of them, if any."""
        engine, pace = self._engine, pace or Unpaced()
        size = len(examples) if rows is None else len(rows)
        counts = np.zeros((2, self.contract.rows), np.int64)
        loss_sum = 0.0
        with engine.alone():
            engine.load(weights, self._personal(personal))
            readable, batch = self._readable(examples), Batch(self.contract)
            call, inputs = engine.call["evaluate"], batch.inputs
            for start in range(0, size, self.contract.batch):
                pace.step()
                end = min(start + self.contract.batch, size)
                batch.fill(readable, np.arange(start, end) if rows is None else rows[start:end])
                result = call(**inputs)
                counts += np.rint([result["examples"], result["correct"]]).astype(np.int64)
                loss_sum += float(result["loss_sum"][0])
        seen, correct = counts.tolist()
        return EvalResult(tuple(seen), tuple(correct), loss_sum)

    def infer(
        self, weights: FloatVector, x: Values, *, personal: FloatVector | None = None
    ) -> NDArray[np.float32]:
        """The outputs (batch, *output) for one batch of raw inputs, scaled as the model wants."""
        with self._engine.alone():
            self._engine.load(weights, self._personal(personal))
            output: NDArray[np.float32] = self._engine.call["infer"](x=x)["output"]
            return output

    def features(
        self, examples: Examples, scratch: Path, pace: Pace | None = None
    ) -> FeatureFile | None:
        """What the frozen part makes of each example, for `Kept`; None if nothing can be kept."""
        if not self.contract.features_shape:
            return None
        with self._engine.alone():
            return compute_features(self._engine, examples, scratch, pace or Unpaced())

    def self_test(self) -> None:
        """Train the golden batch; LocalFault if this machine finds other losses than it should."""
        with self._engine.alone():
            self_test(self._engine, np.frombuffer(read_model(self._tflite).weights, "<f4"))

    def _personal(self, personal: FloatVector | None) -> FloatVector:
        return self._engine.initial_personal() if personal is None else personal

    def _readable(self, examples: Examples) -> Examples:
        """What `train` and `evaluate` take of the examples."""
        if self.contract.features_shape and not isinstance(examples, Kept):
            return Computed(self._engine, examples)
        return examples


class _Run:
    """The steps of one training."""

    def __init__(self, engine: Engine, examples: Examples, plan: Plan, pace: Pace) -> None:
        says = engine.contract.manifest
        self._call = engine.call["train"]
        self._examples, self._pace = examples, pace
        self._batch = Batch(engine.contract)
        self._order = generator(plan.seed, Draw.ORDER)
        self._dropout = generator(plan.seed, Draw.DROPOUT)
        self._inputs = self._batch.inputs | {
            "lr": np.array([plan.learning_rate], np.float32),
            "mu": np.array([plan.proximal_mu], np.float32),
        }
        self._uniform = self._normal = None
        if says.noise:
            self._uniform = np.zeros((says.batch, says.noise), np.float32)
            self._inputs["r"] = self._uniform
        if says.private:
            self._inputs["clip"] = np.array([plan.example_clip or _UNCLIPPED], np.float32)
            self._inputs["z"] = np.zeros(says.size + says.personal_size, np.float32)
        self._deviation = np.float32(plan.noise_multiplier * plan.example_clip)
        if self._deviation:
            self._normal = self._inputs["z"]
            self._noise = generator(plan.seed if plan.insecure_noise else None, Draw.PRIVACY)
        self.steps = 0

    def epoch(self) -> float:
        """Each example once; the mean loss. Raises Diverged at the first step without meaning."""
        size, total = len(self._examples), 0.0
        order, length = Order(size, self._order), len(self._batch.mask)
        for start in range(0, size, length):
            self._pace.step()
            rows = order.rows(start, start + length)
            self._batch.fill(self._examples, rows)
            if self._uniform is not None:
                self._dropout.random(out=self._uniform, dtype=np.float32)
            if self._normal is not None:
                self._noise.standard_normal(out=self._normal, dtype=np.float32)
                self._normal *= self._deviation
            loss = float(self._call(**self._inputs)["loss"][0])
            self.steps += 1
            if not loss <= LOSS_MAX:  # so spelled that NaN is caught too
                raise Diverged(self.steps, loss)
            total += loss * len(rows)
        return total / size

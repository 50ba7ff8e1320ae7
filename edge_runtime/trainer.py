"""Local training inside the TFLite interpreter, by the model's own `train` signature."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import ModelContract
from edge_runtime.interpreter import open_interpreter
from edge_runtime.sources.base import Batch, Samples, batches
from qflare.faults import LocalFault
from qflare.zoo.formula import sine_batch, sine_weights

LOSS_MAX: Final = 1e3  # a batch's mean cross entropy; guessing among 4,096 classes costs 8.3


class Diverged(LocalFault):
    """Training left the numbers that mean anything; nothing of it may be sent."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"training diverged at step {step}, loss {loss}; lower the learning rate")
        self.step = step
        self.loss = loss


class Stopped(Exception):
    """`should_stop` said so; the half-trained weights are gone."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What local training gave."""

    weights: NDArray[np.float32]  # (size,), finite
    examples: int  # different samples trained on
    steps: int
    loss_first: float  # mean over the first epoch, while it was being trained
    loss_last: float  # mean over the last epoch
    seconds: float


@dataclass(frozen=True, slots=True)
class EvalResult:
    """How a model did on some samples; sums, so that results of many devices can be added."""

    examples: int
    correct: int
    loss_sum: float


class Trainer:
    """One interpreter over one model; any weights may be trained in it, one call at a time.

    Flat weights are float32 (size,) in the manifest's order. A call from a second thread while
    one runs raises LocalFault: TFLite would silently compute NaN.
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
        self._busy = threading.Lock()
        interpreter = open_interpreter(tflite, threads)
        names = ("train", "evaluate", "get_weights", "set_weights", "reset")
        self._call: dict[str, Any] = {n: interpreter.get_signature_runner(n) for n in names}
        self._keys = [f"w{i}" for i in range(len(contract.spec.tensors))]

    def train(
        self,
        weights: NDArray[np.float32],
        samples: Samples,
        *,
        learning_rate: float,
        epochs: int,
        seed: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainResult:
        """Train from `weights` for whole epochs, each in an order drawn from `seed`.

        The same arguments on the same machine give the same bits. Raises Diverged, Stopped, or
        LocalFault if there is nothing to train on.
        """
        if not len(samples) or epochs < 1:
            raise LocalFault("there are no samples to train on, or no epochs")
        random = np.random.Generator(np.random.PCG64(seed))
        rate = np.array([learning_rate], np.float32)
        steps, means = 0, []
        with self._alone():
            started = self._clock()
            self._load(weights)
            for _ in range(epochs):
                total = 0.0
                order = random.permutation(len(samples))
                for batch in batches(samples, self.contract.batch, order):
                    if should_stop():
                        raise Stopped
                    loss = self._step(batch, rate)
                    steps += 1
                    if not loss <= LOSS_MAX:  # so spelled that NaN is caught too
                        raise Diverged(steps, loss)
                    total += loss * batch.count
                means.append(total / len(samples))
            trained = self._weights()
            seconds = self._clock() - started
        if not np.isfinite(trained).all():
            raise Diverged(steps, loss)
        return TrainResult(trained, len(samples), steps, means[0], means[-1], seconds)

    def evaluate(self, weights: NDArray[np.float32], samples: Samples) -> EvalResult:
        """Loss and hits of `weights` on `samples`, which may be none."""
        correct, loss_sum = 0, 0.0
        with self._alone():
            self._load(weights)
            for batch in batches(samples, self.contract.batch, np.arange(len(samples))):
                result = self._call["evaluate"](x=batch.x, y=batch.y, m=batch.mask)
                correct += round(float(result["correct"][0]))
                loss_sum += float(result["loss_sum"][0])
        return EvalResult(len(samples), correct, loss_sum)

    def self_test(self) -> None:
        """Train the golden batch; LocalFault if this machine finds other losses than it should.

        Some builds of TFLite compute wrongly without saying so.
        """
        contract, golden = self.contract, self.contract.golden
        x, y, mask = sine_batch(contract.batch, contract.input_shape, len(contract.classes))
        batch = Batch(x, y, mask, round(float(mask.sum())))
        rate = np.array([golden.learning_rate], np.float32)
        with self._alone():
            self._load(sine_weights(contract.spec.size))
            found = [self._step(batch, rate) for _ in range(golden.steps)]
            after = self._call["evaluate"](x=x, y=y, m=mask)
        wanted = golden.evaluate
        pairs = [*zip(found, golden.losses, strict=True)]
        pairs.append((float(after["loss_sum"][0]) / wanted.n, wanted.loss_sum / wanted.n))
        pairs.append((float(after["correct"][0]), wanted.correct))
        pairs.append((float(after["n"][0]), wanted.n))
        for i, (got, want) in enumerate(pairs):
            if not abs(got - want) <= golden.tolerance:
                raise LocalFault(
                    f"TFLite on this machine computes {contract.name} wrongly: golden value {i} "
                    f"is {got}, want {want}; try the other of the extras edge, edge-tflite-runtime"
                )

    def _step(self, batch: Batch, rate: NDArray[np.float32]) -> float:
        result = self._call["train"](x=batch.x, y=batch.y, m=batch.mask, lr=rate)
        return float(result["loss"][0])

    def _load(self, weights: NDArray[np.float32]) -> None:
        """Set the weights and forget the momentum: the interpreter still has the last call's."""
        parts = self.contract.spec.split(np.asarray(weights, np.float32))
        self._call["set_weights"](**dict(zip(self._keys, parts.values(), strict=True)))
        self._call["reset"]()

    def _weights(self) -> NDArray[np.float32]:
        parts = self._call["get_weights"]()
        return np.concatenate([parts[key].ravel() for key in self._keys])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise LocalFault("a Trainer serves one call at a time; make one for each thread")
        try:
            yield
        finally:
            self._busy.release()

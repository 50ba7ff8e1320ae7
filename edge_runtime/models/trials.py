"""The job `check`: does the model do on this machine what its signatures promise?"""

from typing import Any, Final

import numpy as np

from edge_runtime.contract import parse_contract
from edge_runtime.engine import Engine
from edge_runtime.models.made import made_samples
from edge_runtime.models.steps import Result, Run, Trouble
from edge_runtime.resident import peak_rss_kb
from edge_runtime.trainer import Diverged, Plan, Trainer
from qflare.faults import LocalFault
from qflare.host.model import read_model
from qflare.zoo.formula import golden_inputs

_STEPS: Final = 40
_ABSURD_RATE: Final = 1e30
_BATCHES: Final = 3  # of made examples, the last one not full


def work(tflite: bytes, _: dict[str, Any], run: Run) -> None:
    """Every trial, one after the other; the rest is left out if the first one fails."""
    kept: list[Trials] = []

    def opened() -> Result:
        kept.append(Trials(tflite))
        return {}

    if "trouble" in run("open", opened):
        return
    trials = kept[0]
    run("golden", trials.golden)
    run("round-trip", trials.round_trip)
    run("learning", trials.learning)
    run("reset", trials.reset)
    run("evaluate", trials.evaluate)
    run("padding", trials.padding)
    run("inference", trials.inference)
    run("repeat", trials.repeat)
    run("divergence", trials.divergence)
    run("memory", _memory)


def _memory() -> Result:
    return {"peak_bytes": 1024 * peak_rss_kb()}


class Trials:
    """A model, and an interpreter over it; each method is one trial."""

    def __init__(self, tflite: bytes) -> None:
        self._tflite = tflite
        self.contract = parse_contract(tflite)
        self.manifest = self.contract.manifest
        self._engine = Engine(self.contract, tflite)
        model = read_model(tflite)
        self._w = np.frombuffer(model.weights, "<f4")
        self._p = np.frombuffer(model.personal, "<f4")
        self._inputs = golden_inputs(self.manifest)
        self._raw = self._inputs["x"]
        if self.contract.features_shape:
            self._inputs["x"] = self._engine.call["features"](x=self._raw)["f"]
        if self.manifest.private:  # neither clipped nor blurred, to see what training does
            self._inputs["clip"] = np.array([1e9], np.float32)
            self._inputs["z"] = np.zeros_like(self._inputs["z"])

    def golden(self) -> Result:
        """The self-test of every device."""
        try:
            Trainer(self.contract, self._tflite).self_test()
        except LocalFault as fault:
            raise Trouble("golden", str(fault)) from None
        return {}

    def round_trip(self) -> Result:
        """What `set_weights` takes is what `get_weights` gives, bit for bit."""
        random = np.random.Generator(np.random.PCG64(1))
        wanted = [random.standard_normal(v.size, np.float32) for v in (self._w, self._p)]
        self._engine.load(wanted[0], wanted[1])
        found = self._engine.weights()
        for kind, a, b in zip(("federated", "personal"), wanted, found, strict=True):
            if a.tobytes() != b.tobytes():
                at = int(np.flatnonzero(a.view(np.int32) != b.view(np.int32))[0])
                raise Trouble("round-trip", f"{kind} scalar {at} was set to {a[at]}, is {b[at]}")
        return {}

    def learning(self) -> Result:
        """The loss falls at some sensible learning rate, and weights move."""
        golden = self.manifest.golden.learning_rate
        for rate in (golden, golden / 10, golden / 100, golden * 10):
            losses = self._train(self._engine, _STEPS, rate)
            if not (self._engine.weights()[0] != self._w).any():
                raise Trouble(
                    "not-trained", f"{_STEPS} steps left every federated weight as it was"
                )
            if losses[-1] < losses[0] and np.isfinite(losses).all():
                return {"first": losses[0], "last": losses[-1], "learning_rate": rate}
        raise Trouble(
            "not-learning",
            f"the loss of one batch doesn't fall in {_STEPS} steps at learning rates from "
            f"{golden / 100:g} to {golden * 10:g}",
        )

    def _train(self, engine: Engine, steps: int, rate: float) -> list[float]:
        engine.load(self._w, self._p)
        inputs = self._inputs | {"lr": np.array([rate], np.float32)}
        return [float(engine.call["train"](**inputs)["loss"][0]) for _ in range(steps)]

    def reset(self) -> Result:
        """After `set_weights` and `reset`, a used interpreter trains as a new one does."""
        rate = self.manifest.golden.learning_rate
        engines = (self._engine, Engine(self.contract, self._tflite))
        self._train(self._engine, 5, rate)
        found = []
        for engine in engines:
            losses = self._train(engine, 4, rate)
            found.append((losses, *(w.tobytes() for w in engine.weights())))
        if found[0] != found[1]:
            raise Trouble("reset", "after reset, training differs from that in a new interpreter")
        return {}

    def evaluate(self) -> Result:
        """The counts are those of the examples that count."""
        self._engine.load(self._w, self._p)
        inputs = {k: v for k, v in self._inputs.items() if k in ("x", "y", "m")}
        call = self._engine.call["evaluate"]
        found = call(**inputs)
        mask, rows = self._inputs["m"], self.contract.rows
        if self.manifest.task == "classification":
            wanted = np.bincount(self._inputs["y"], mask, rows)
        else:
            wanted = np.array([mask.sum()])
        _same("examples", found["examples"], wanted)
        correct = found["correct"]
        if not ((correct >= 0) & (correct <= found["examples"])).all():
            raise Trouble("evaluate", f"correct {correct.tolist()} of {wanted.tolist()}")
        if not np.isfinite(found["loss_sum"]).all():
            raise Trouble("evaluate", "the sum of losses isn't finite")
        nothing = call(**(inputs | {"m": np.zeros_like(mask)}))
        for name in ("examples", "correct", "loss_sum"):
            _same(f"{name} of no examples", nothing[name], np.zeros_like(nothing[name]))
        if self.manifest.task == "classification":
            given = self._engine.call["infer"](x=self._raw)["output"]
            hits = mask * (given.argmax(-1) == self._inputs["y"])
            _same("correct", correct, np.bincount(self._inputs["y"], hits, rows))
        return {}

    def padding(self) -> Result:
        """What a masked example holds changes nothing."""
        mask = self._inputs["m"] == 0
        if not mask.any():
            return {"skipped": "a batch of one example has no padding"}
        rate = self.manifest.golden.learning_rate
        before = self._inputs
        first = self._train(self._engine, 3, rate)
        x = before["x"].copy()
        x[mask] = 0 if x.dtype == np.int32 else 3.0
        self._inputs = before | {"x": x}
        second = self._train(self._engine, 3, rate)
        self._inputs = before
        apart = max(abs(a - b) for a, b in zip(first, second, strict=True))
        if not apart <= 1e-5 * max(1.0, abs(first[0])):
            raise Trouble("padding", f"masked examples change the loss by {apart:.3g}")
        return {}

    def inference(self) -> Result:
        """Outputs are finite, and probabilities where probabilities are due."""
        self._engine.load(self._w, self._p)
        output = self._engine.call["infer"](x=self._raw)["output"]
        if not np.isfinite(output).all():
            raise Trouble("inference", "outputs aren't finite")
        if self.manifest.task in ("classification", "multilabel"):
            if not ((output >= 0) & (output <= 1)).all():
                raise Trouble("inference", "probabilities are outside 0…1")
            if self.manifest.task == "classification":
                _same("the sum of probabilities", output.sum(-1), np.ones(len(output)))
        return {}

    def repeat(self) -> Result:
        """The same seed gives the same bits, in one interpreter or two."""
        size = _BATCHES * self.contract.batch - self.contract.batch // 2
        samples = made_samples(self.manifest, size)
        plan = Plan(self.manifest.golden.learning_rate / 10, epochs=1, seed=7, proximal_mu=0.01)
        found = []
        for trainer in (first := Trainer(self.contract, self._tflite), first, None):
            trained = (trainer or Trainer(self.contract, self._tflite)).train(
                self._w, samples, plan, personal=self._p
            )
            found.append(trained.weights.tobytes() + trained.personal.tobytes())
        if len(set(found)) > 1:
            raise Trouble("repeat", "two trainings from one seed end with different weights")
        return {}

    def divergence(self) -> Result:
        """An absurd learning rate is noticed."""
        size = 4 * self.contract.batch
        plan = Plan(_ABSURD_RATE, epochs=2, seed=7)
        try:
            Trainer(self.contract, self._tflite).train(
                self._w, made_samples(self.manifest, size), plan, personal=self._p
            )
        except Diverged as diverged:
            return {"step": diverged.step}
        raise Trouble(
            "divergence",
            f"training at a learning rate of {_ABSURD_RATE:g} goes on as if nothing happened",
        )


def _same(what: str, found: Any, wanted: Any) -> None:
    if np.shape(found) != np.shape(wanted) or not np.allclose(found, wanted, atol=1e-3):
        shown = [np.asarray(v).ravel()[:8].tolist() for v in (found, wanted)]
        raise Trouble("evaluate", f"{what}: {shown[0]}, want {shown[1]}")

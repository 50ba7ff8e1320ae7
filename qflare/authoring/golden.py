"""The golden run of a model: found by the oracle, and held against the file itself.

`qflare.zoo.formula` gives its inputs. The learning rate is one at which rounding doesn't matter: a
network with max pooling, or Adam on a weight without a gradient, may turn a difference of 1e-7
into one of 1e-2 at a larger one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qflare.authoring.interpreter import open_interpreter
from qflare.authoring.oracle import Oracle, Outcome
from qflare.authoring.quiet import quiet
from qflare.faults import LocalFault
from qflare.host.model import Manifest, ModelFile
from qflare.host.model.manifest import Evaluation, Golden
from qflare.zoo.formula import SINE_1, golden_inputs, golden_weights

STEPS: Final = 8
TOLERANCE: Final = 1e-4
_START: Final = {"sgd": 0.1, "momentum": 0.05, "adam": 0.002}
_HALVINGS: Final = 7
_DISTURBANCE: Final = 1e-6  # ten times what float32 rounds off
_FLAT: Final = 1e-6  # a gradient so small may be all rounding, which Adam makes a whole step of
PLACEHOLDER: Final = Golden(
    formula=SINE_1,
    learning_rate=1.0,
    steps=1,
    losses=[0.0],
    evaluate=Evaluation(loss_sum=0.0, n=1.0, correct=0.0),
    tolerance=TOLERANCE,
)


@dataclass(frozen=True)
class GoldenRun:
    """What the manifest keeps of it, and the rest of what the oracle found."""

    golden: Golden
    outcome: Outcome


def golden_run(oracle: Oracle, manifest: Manifest, initial: Sequence[Any]) -> GoldenRun:
    """Train the golden batch in the oracle; LocalFault if no learning rate keeps it finite.

    `initial` are the initial weights, federated and then personal ones.
    """
    inputs, weights = golden_inputs(manifest), _golden_start(manifest, initial)
    for halvings in range(_HALVINGS):
        rate = _START[manifest.optimiser.name] / 2**halvings
        with quiet():
            outcome = oracle.run(weights, inputs, rate, STEPS)
            if not _small(outcome):
                continue
            other = oracle.run(weights, inputs, rate, STEPS, _DISTURBANCE)
        if _near(outcome, other):
            break
    if not np.isfinite([*outcome.losses, outcome.loss_sum]).all():
        raise LocalFault(
            "the model's loss isn't finite on a plain batch; check its initial weights"
        )
    golden = Golden(
        formula=SINE_1,
        learning_rate=rate,
        steps=STEPS,
        losses=[round(loss, 6) for loss in outcome.losses],
        evaluate=Evaluation(
            loss_sum=round(outcome.loss_sum, 6),
            n=float(outcome.examples.sum()),
            correct=float(outcome.correct.sum()),
        ),
        tolerance=TOLERANCE,
    )
    return GoldenRun(golden, outcome)


def _golden_start(manifest: Manifest, initial: Sequence[Any]) -> list[NDArray[np.float32]]:
    """Golden weights, tensor by tensor."""
    count, found = len(manifest.parameters), []
    for part in (initial[:count], initial[count:]):
        if part:
            flat = golden_weights(np.concatenate([w.ravel() for w in part]))
            ends = np.cumsum([w.size for w in part])[:-1]
            found += [f.reshape(w.shape) for f, w in zip(np.split(flat, ends), part, strict=True)]
    return found


def _small(outcome: Outcome) -> bool:
    """Whether a run neither blows up nor hangs on a decision that is nearly a draw."""
    losses = outcome.losses
    finite = np.isfinite([*losses, outcome.loss_sum]).all()
    return bool(finite and max(losses) <= 2 * losses[0] + 0.1 and outcome.margin > TOLERANCE / 4)


def _near(a: Outcome, b: Outcome) -> bool:
    """Whether a disturbance of a run stayed small."""
    one, two = ([*o.losses, o.loss_sum] for o in (a, b))
    near = np.allclose(one, two, rtol=TOLERANCE / 4, atol=TOLERANCE / 4)
    weights = zip(a.weights, b.weights, a.steepest, strict=True)
    near = near and all(_worst(x, y, s) <= TOLERANCE / 8 for x, y, s in weights)
    return bool(near and (a.correct == b.correct).all())


def verify(file: ModelFile, run: GoldenRun) -> None:
    """Train the golden batch in the interpreter; LocalFault says where it departs.

    Every loss, every weight, the evaluation and the output are compared.
    """
    with quiet():
        _compare(file, run)


def _compare(file: ModelFile, run: GoldenRun) -> None:
    manifest, golden, want = file.manifest, run.golden, run.outcome
    keys = [f"w{i}" for i in range(len(manifest.parameters))]
    keys += [f"p{i}" for i in range(len(manifest.personal))]
    shapes = [tuple(p.shape) for p in (*manifest.parameters, *manifest.personal)]
    names = [p.name for p in (*manifest.parameters, *manifest.personal)]
    interpreter = open_interpreter(file.tflite)
    call = {n: interpreter.get_signature_runner(n) for n in interpreter.get_signature_list()}
    flat = np.frombuffer(file.weights + file.personal, "<f4")
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1]
    parts = np.split(flat, ends)
    initial = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    given = call["get_weights"]()
    for name, key, value in zip(names, keys, initial, strict=True):
        _same("the initial value of " + name, given[key], value.astype(np.float64), 0.0)
    start = _golden_start(manifest, initial)
    call["set_weights"](**dict(zip(keys, start, strict=True)))
    call["reset"]()
    inputs = golden_inputs(manifest)
    raw = inputs["x"]
    if manifest.features:
        inputs["x"] = call["features"](x=raw)["f"]
    rate = np.array([golden.learning_rate], np.float32)
    for i, loss in enumerate(want.losses):
        _same(f"the loss of step {i + 1}", call["train"](**inputs, lr=rate)["loss"], [loss])
    after = call["get_weights"]()
    for name, key, value, steepest in zip(names, keys, want.weights, want.steepest, strict=True):
        worst = _worst(after[key], value, steepest)
        if not worst <= TOLERANCE:
            _depart(f"{name} after {STEPS} steps", worst)
    seen = call["evaluate"](**{k: v for k, v in inputs.items() if k in ("x", "y", "m")})
    _same(
        "the loss of the evaluation",
        seen["loss_sum"] / golden.evaluate.n,
        [want.loss_sum / golden.evaluate.n],
    )
    _same("the examples of the evaluation", seen["examples"], want.examples)
    _same("the correct answers of the evaluation", seen["correct"], want.correct)
    _same("the output", call["infer"](x=raw)["output"], want.output)


def _worst(found: Any, want: Any, steepest: Any) -> float:
    """The largest difference of weights that have a gradient worth the name."""
    off = np.abs(found - want) / np.maximum(1.0, np.abs(want))
    moved = (steepest > _FLAT) | (steepest == 0)
    return float(np.max(np.where(moved, off, 0.0), initial=0.0))


def _same(what: str, found: Any, want: Any, tolerance: float = TOLERANCE) -> None:
    want = np.asarray(want, np.float64)
    off = float(np.max(np.abs(found - want) / np.maximum(1.0, np.abs(want)), initial=0.0))
    if np.shape(found) != want.shape or not off <= tolerance:
        _depart(what, off)


def _depart(what: str, worst: float) -> None:
    raise LocalFault(
        f"the converted model isn't the one that was given: {what} is off by {worst:.1e} "
        f"(at most {TOLERANCE:.0e}); please report the model, and leave out layers until it passes"
    )

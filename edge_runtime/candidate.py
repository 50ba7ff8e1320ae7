"""Try a released model on this device and put it in a slot; whether it becomes active is judged
elsewhere (`edge_runtime.acceptance`). Runs where the interpreter is, in the training process.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.acceptance import Scores, Unusable
from edge_runtime.interpreter import open_interpreter
from edge_runtime.serving.export import INFER, application_file
from edge_runtime.slots import SlotManifest, Slots
from qflare.faults import LocalFault, PeerFault
from qflare.host.model import Manifest, read_model
from qflare.host.typed import tree_of
from qflare.names import Digest
from qflare.tensors import FloatVector, weights_from_bytes
from qflare.zoo.formula import golden_inputs

if TYPE_CHECKING:
    from edge_runtime.pacing import Pace
    from edge_runtime.sources.base import Examples
    from edge_runtime.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Trial:
    """What `ev.Evaluated` tells of a model that works here."""

    scores: Scores  # no examples if there is no local data
    before: Scores | None  # the active model's on the same examples, if there is another one
    counted: bool  # the task has right answers to count


@dataclass(frozen=True, slots=True)
class Candidate:
    """A released model: the graph that it runs in, and its weights, float32 LE."""

    model: Digest
    tflite: bytes
    weights: bytes


def try_model(
    trainer: "Trainer",
    candidate: Candidate,
    personal: FloatVector | None,
    examples: "Examples | None",
    slots: Slots | None,
    pace: "Pace | None" = None,
) -> Trial:
    """Test, stage and score a model; `trainer` is over its graph, and passed the self-test.

    `examples` are the local validation part, None if there is none. Without slots, as in a
    simulation, the model is only scored. Raises Unusable, LocalFault, or OSError if the slot can't
    be written.
    """
    contract = trainer.contract
    try:
        flat = weights_from_bytes(candidate.weights, contract.spec.size)
    except PeerFault as fault:
        raise Unusable(fault.detail) from None
    scores, before = Scores(0, 0, 0.0), None
    if examples is not None and len(examples):
        scores = _score(trainer, flat, personal, examples, pace)
        if not math.isfinite(scores.loss_sum):
            raise Unusable("its loss on the local data is not finite")
        if slots is not None:
            before = _before(trainer, candidate, personal, examples, slots, pace)
    counted = contract.manifest.task in ("classification", "multilabel")
    if slots is None:
        return Trial(scores, before, counted)
    mine = b"" if personal is None else np.ascontiguousarray(personal, "<f4").tobytes()
    try:
        file = application_file(candidate.tflite, candidate.weights, mine)
    except PeerFault as fault:
        raise Unusable(fault.detail) from None
    _verify_file(file, trainer, flat, personal)
    slots.stage(candidate.model, file, _manifest(contract.manifest, candidate, file, scores))
    return Trial(scores, before, counted)


def _score(
    trainer: "Trainer",
    weights: FloatVector,
    personal: FloatVector | None,
    examples: "Examples",
    pace: "Pace | None",
) -> Scores:
    found = trainer.evaluate(weights, examples, personal=personal, pace=pace)
    return Scores(found.examples, found.correct, found.loss_sum)


def _before(
    trainer: "Trainer",
    candidate: Candidate,
    personal: FloatVector | None,
    examples: "Examples",
    slots: Slots,
    pace: "Pace | None",
) -> Scores | None:
    """How the active model does; None if there is no other one of the same graph that does."""
    active = slots.active
    if active is None or active.model == candidate.model:
        return None
    if active.manifest.graph != str(trainer.contract.digest):
        return None
    try:
        weights = read_model(active.read()).weights
    except (LocalFault, PeerFault):  # damaged: nothing to compare with
        return None
    flat = weights_from_bytes(weights, trainer.contract.spec.size)
    found = _score(trainer, flat, personal, examples, pace)
    return found if math.isfinite(found.loss_sum) else None


def _verify_file(
    file: bytes, trainer: "Trainer", weights: FloatVector, personal: FloatVector | None
) -> None:
    """Raise Unusable unless the application's file computes what the trainer does, in numbers."""
    manifest = trainer.contract.manifest
    x = golden_inputs(manifest)["x"]
    wanted = trainer.infer(weights, x, personal=personal)
    if not np.isfinite(wanted).all():
        raise Unusable("its output on the golden batch is not finite")
    try:
        found = open_interpreter(file).get_signature_runner(INFER)(x=x)["output"]
    except (RuntimeError, ValueError) as error:
        raise Unusable(f"TFLite can't run its application file: {error}"[:600]) from None
    # The largest output counts: an interpreter may prepare constants and so round in another way.
    off = float(np.abs(found - wanted).max(initial=0.0))
    if not off <= manifest.golden.tolerance * max(1.0, float(np.abs(wanted).max(initial=0.0))):
        raise Unusable(f"its application file computes otherwise than the model, by {off:.3g}")


def _manifest(it: Manifest, candidate: Candidate, file: bytes, scores: Scores) -> SlotManifest:
    return SlotManifest(
        model=str(candidate.model),
        graph=str(Digest.of(candidate.tflite)),
        file=str(Digest.of(file)),
        name=it.name,
        version=it.version,
        task=it.task,
        input=tree_of(it.input),
        output=list(it.output),
        classes=list(it.classes),
        batch=it.batch,
        examples=scores.examples,
        correct=scores.correct,
        loss_sum=scores.loss_sum,
    )

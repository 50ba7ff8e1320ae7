"""A released model tried with the real interpreter, and put in its slot."""

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.acceptance import Bounds, Unusable, judge
from edge_runtime.candidate import Candidate, try_model
from edge_runtime.contract import parse_contract
from edge_runtime.interpreter import open_interpreter
from edge_runtime.slots import Slots, read_slot
from edge_runtime.sources.base import Samples
from edge_runtime.trainer import Trainer
from qflare.host.model import read_model
from qflare.names import Digest

FOLDER = Path(__file__).parents[1] / "models"
TFLITE = (FOLDER / "multilabel.tflite").read_bytes()
START = read_model(TFLITE).weights


def candidate(weights: bytes) -> Candidate:
    return Candidate(Digest.of(weights), TFLITE, weights)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(parse_contract(TFLITE), TFLITE)


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


@pytest.fixture
def examples(trainer: Trainer) -> Samples:
    """What the model as it starts says of some inputs: it is right about all of them."""
    x = np.random.default_rng(1).normal(0, 1, (64, 6)).astype(np.float32)
    flat = np.frombuffer(START, "<f4")
    said = [trainer.infer(flat, x[i : i + 8]) for i in range(0, 64, 8)]
    return Samples(x, (np.concatenate(said) > 0.5).astype(np.float32))


def test_a_good_model_is_staged_and_scored(
    trainer: Trainer, slots: Slots, examples: Samples
) -> None:
    found = try_model(trainer, candidate(START), None, examples, slots)
    assert (found.scores.examples, found.scores.correct, found.counted) == (64, 64, True)
    assert found.before is None
    assert slots.sound(Digest.of(START))
    slots.activate(Digest.of(START), 1, 0.0)
    slot = read_slot(slots.link)
    assert (slot.manifest.correct, slot.manifest.task) == (64, "multilabel")
    x = examples.x[:8]
    got = open_interpreter(slot.read()).get_signature_runner("infer")(x=x)["output"]
    np.testing.assert_array_equal(got, trainer.infer(np.frombuffer(START, "<f4"), x))


def test_a_worse_model_is_told_by_the_active_one(
    trainer: Trainer, slots: Slots, examples: Samples
) -> None:
    try_model(trainer, candidate(START), None, examples, slots)
    slots.activate(Digest.of(START), 1, 0.0)
    worse = (-np.frombuffer(START, "<f4")).tobytes()
    found = try_model(trainer, candidate(worse), None, examples, slots)
    assert found.before is not None
    assert (found.before.examples, found.before.correct) == (64, 64)
    assert not judge(found.scores, found.before, Bounds(), found.counted).accepted
    assert slots.state.active == str(Digest.of(START))


def test_without_data_the_self_test_has_to_do(trainer: Trainer, slots: Slots) -> None:
    found = try_model(trainer, candidate(START), None, None, slots)
    assert found.scores.examples == 0
    verdict = judge(found.scores, found.before, Bounds(), found.counted)
    assert verdict.accepted
    assert "self-test alone" in verdict.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_model_without_meaning_is_unusable(
    trainer: Trainer, slots: Slots, examples: Samples, value: float
) -> None:
    weights = np.full(len(START) // 4, value, "<f4").tobytes()
    with pytest.raises(Unusable, match="finite"):
        try_model(trainer, candidate(weights), None, examples, slots)
    assert not slots.sound(Digest.of(weights))


def test_a_simulated_device_has_no_slots(trainer: Trainer, examples: Samples) -> None:
    found = try_model(trainer, candidate(START), None, examples, None)
    assert (found.scores.correct, found.before) == (64, None)


def test_a_damaged_active_model_is_no_measure(
    trainer: Trainer, slots: Slots, examples: Samples
) -> None:
    try_model(trainer, candidate(START), None, examples, slots)
    slots.activate(Digest.of(START), 1, 0.0)
    (slots.link.resolve() / "model.tflite").write_bytes(b"rot")
    other = (np.frombuffer(START, "<f4") * np.float32(0.5)).tobytes()
    assert try_model(trainer, candidate(other), None, examples, slots).before is None

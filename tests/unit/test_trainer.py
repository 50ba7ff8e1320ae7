"""The trainer trains, in the real interpreter, and refuses what it must."""

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.contract import ModelContract, parse_contract
from edge_runtime.sources.base import Samples
from edge_runtime.trainer import Diverged, Stopped, Trainer
from qflare import zoo
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import Digest
from qflare.zoo.formula import sine_batch

MODEL = zoo.load("watch_cnn")
START = np.frombuffer(MODEL.weights, "<f4")


@pytest.fixture(scope="module")
def contract() -> ModelContract:
    return parse_contract(MODEL.manifest, MODEL.tflite)


@pytest.fixture(scope="module")
def trainer(contract: ModelContract) -> Trainer:
    return Trainer(contract, MODEL.tflite)


@pytest.fixture(scope="module")
def samples() -> Samples:
    """40 easy examples: two batches and a half."""
    x, y, _ = sine_batch(40, (128, 6), 7)
    return Samples(x, y)


def altered(change: Callable[[dict[str, Any]], None]) -> bytes:
    manifest = json.loads(MODEL.manifest)
    change(manifest)
    return json.dumps(manifest).encode()


def test_contract_says_what_the_manifest_says(contract: ModelContract) -> None:
    assert contract.spec.size == START.size == 7_095
    assert (contract.input_shape, contract.batch) == ((128, 6), 16)
    assert contract.digest == Digest.of(MODEL.tflite)
    assert contract.initial_weights == Digest.of(MODEL.weights)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(batch=8), Reason.WRONG_SHAPE),
        (lambda m: m["classes"].pop(), Reason.WRONG_SHAPE),
        (lambda m: m["parameters"].reverse(), Reason.WRONG_SHAPE),
        (lambda m: m["parameters"].pop(), Reason.WRONG_SHAPE),
        (lambda m: m["input"].update(mean=[0.0]), Reason.WRONG_SHAPE),
        (lambda m: m["golden"]["losses"].pop(), Reason.WRONG_SHAPE),
        (lambda m: m["tflite"].update(sha256="0" * 64), Reason.WRONG_DIGEST),
        (lambda m: m["tflite"].update(bytes=3), Reason.WRONG_DIGEST),
        (lambda m: m.update(surprise=1), Reason.UNKNOWN_FIELD),
        (lambda m: m.update(format="qflare-model/2"), Reason.MALFORMED),
        (lambda m: m["input"].update(scale=[0.0] * 6), Reason.MALFORMED),
        (lambda m: m.pop("golden"), Reason.MALFORMED),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], None], reason: Reason
) -> None:
    with pytest.raises(PeerFault) as fault:
        parse_contract(altered(change), MODEL.tflite)
    assert fault.value.reason == reason


def test_bytes_that_are_no_model_are_refused() -> None:
    junk = b"no model at all"

    def rename(manifest: dict[str, Any]) -> None:
        manifest["tflite"] |= {"bytes": len(junk), "sha256": str(Digest.of(junk))}

    with pytest.raises(PeerFault) as fault:
        parse_contract(altered(rename), junk)
    assert fault.value.reason == Reason.MALFORMED


def test_an_oversized_manifest_is_refused_unread() -> None:
    with pytest.raises(PeerFault) as fault:
        parse_contract(b" " * 300_000, MODEL.tflite)
    assert fault.value.reason == Reason.TOO_LARGE


def test_golden_batch_agrees_with_the_oracle(trainer: Trainer) -> None:
    trainer.self_test()


def test_a_machine_that_computes_otherwise_is_found_out(contract: ModelContract) -> None:
    manifest = altered(lambda m: m["golden"]["losses"].__setitem__(5, 1.5))
    with pytest.raises(LocalFault, match="golden value 5"):
        Trainer(parse_contract(manifest, MODEL.tflite), MODEL.tflite).self_test()


def test_training_lowers_the_loss(trainer: Trainer, samples: Samples) -> None:
    result = trainer.train(START, samples, learning_rate=0.05, epochs=30, seed=1)
    assert (result.examples, result.steps) == (40, 90)
    assert result.loss_last < 0.5 * result.loss_first
    before, after = trainer.evaluate(START, samples), trainer.evaluate(result.weights, samples)
    assert after.correct > before.correct
    assert after.loss_sum < 0.5 * before.loss_sum
    assert after.examples == 40


def test_the_same_seed_gives_the_same_bits(trainer: Trainer, samples: Samples) -> None:
    def run(seed: int) -> bytes:
        result = trainer.train(START, samples, learning_rate=0.03, epochs=2, seed=seed)
        return result.weights.tobytes()

    first = run(7)
    assert run(8) != first
    # Momentum and weights of the run in between are forgotten.
    assert run(7) == first


def test_masked_examples_do_not_count(trainer: Trainer, samples: Samples) -> None:
    few = Samples(samples.x[:20], samples.y[:20])
    one_by_one = [
        trainer.evaluate(START, Samples(few.x[i : i + 1], few.y[i : i + 1])) for i in range(20)
    ]
    together = trainer.evaluate(START, few)
    assert together.correct == sum(r.correct for r in one_by_one)
    assert together.loss_sum == pytest.approx(sum(r.loss_sum for r in one_by_one), rel=1e-5)


def test_no_test_samples_is_a_result_too(trainer: Trainer, samples: Samples) -> None:
    result = trainer.evaluate(START, Samples(samples.x[:0], samples.y[:0]))
    assert (result.examples, result.correct, result.loss_sum) == (0, 0, 0.0)


def test_divergence_is_reported_with_its_step(trainer: Trainer, samples: Samples) -> None:
    with pytest.raises(Diverged) as fault:
        trainer.train(START, samples, learning_rate=1e6, epochs=3, seed=0)
    assert 1 < fault.value.step <= 9
    assert not fault.value.loss <= 1e3


def test_stopping_gives_no_weights(trainer: Trainer, samples: Samples) -> None:
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        trainer.train(
            START, samples, learning_rate=0.1, epochs=9, seed=0, should_stop=lambda: next(asked)
        )
    trainer.self_test()  # and the trainer serves on


def test_nothing_to_train_on(trainer: Trainer, samples: Samples) -> None:
    with pytest.raises(LocalFault, match="no samples"):
        trainer.train(
            START, Samples(samples.x[:0], samples.y[:0]), learning_rate=0.1, epochs=1, seed=0
        )


def test_weights_of_another_model_are_refused(trainer: Trainer, samples: Samples) -> None:
    with pytest.raises(LocalFault, match="7095"):
        trainer.evaluate(START[1:], samples)


def test_a_second_thread_is_turned_away(trainer: Trainer, samples: Samples) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> bool:
        inside.set()
        assert leave.wait(30)
        return True

    def first() -> None:
        with pytest.raises(Stopped):
            trainer.train(START, samples, learning_rate=0.1, epochs=1, seed=0, should_stop=hold)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(30)
    with pytest.raises(LocalFault, match="one call at a time"):
        trainer.evaluate(START, samples)
    leave.set()
    thread.join(30)


def test_tensorflow_stays_out() -> None:
    assert "tensorflow" not in sys.modules

"""The trainer trains every kind of model, in the real interpreter, and refuses what it must."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as restate

from edge_runtime.interpreter import open_interpreter
from edge_runtime.pacing import Stopped
from edge_runtime.sources.base import Samples
from edge_runtime.trainer import Diverged, Plan, Trainer
from qflare.faults import LocalFault
from tests import models

PLAN = Plan(learning_rate=0.05, epochs=3, seed=7)


@pytest.fixture(scope="module", params=models.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def first(samples: Samples, count: int) -> Samples:
    return Samples(samples.x[:count], None if samples.y is None else samples.y[:count])


def test_the_golden_batch_agrees_with_tensorflow(name: str) -> None:
    models.trainer(name).self_test()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"losses": [9.0, 0, 0, 0, 0]}, "golden value 0"),
        ({"evaluate": {"loss_sum": 9.0, "n": 6.0, "correct": 2.0}}, "golden value 5"),
        ({"evaluate": {"loss_sum": 0.0, "n": 7.0, "correct": 2.0}}, "golden value 5"),
    ],
)
def test_a_machine_that_computes_otherwise_is_found_out(change: dict[str, Any], says: str) -> None:
    contract = models.contract("classifier")
    golden = restate(contract.manifest.golden, **change)
    if "evaluate" in change:
        evaluation = restate(contract.manifest.golden.evaluate, **change["evaluate"])
        golden = restate(contract.manifest.golden, evaluate=evaluation)
    manifest = restate(contract.manifest, golden=golden)
    with pytest.raises(LocalFault, match=says):
        Trainer(replace(contract, manifest=manifest), models.tflite("classifier")).self_test()


def test_training_lowers_the_loss(name: str) -> None:
    trainer, samples, start = models.trainer(name), models.samples(name), models.start(name)
    result = trainer.train(start, samples, replace(PLAN, epochs=30))
    assert (result.examples, result.steps) == (44, 180)
    assert result.loss_last < 0.6 * result.loss_first
    before = trainer.evaluate(start, samples)
    after = trainer.evaluate(result.weights, samples, personal=result.personal)
    assert before.examples == after.examples == 44
    assert after.loss_sum < 0.6 * before.loss_sum
    if trainer.contract.manifest.task in ("classification", "multilabel"):
        assert after.correct > before.correct
    else:
        assert after.correct == 0


def test_a_class_is_counted_in_its_own_row() -> None:
    samples = models.samples("private")
    result = models.trainer("private").evaluate(models.start("private"), samples)
    assert samples.y is not None
    assert [*result.examples_by_row] == [*np.bincount(samples.y, minlength=3)]
    assert all(
        hits <= seen
        for hits, seen in zip(result.correct_by_row, result.examples_by_row, strict=True)
    )


def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    trainer, samples, start = models.trainer(name), models.samples(name), models.start(name)

    def run(seed: int) -> bytes:
        result = trainer.train(start, samples, replace(PLAN, seed=seed))
        return result.weights.tobytes() + result.personal.tobytes()

    one = run(7)
    assert run(8) != one
    # Momentum and weights of the run in between are forgotten.
    assert run(7) == one
    assert (
        Trainer(trainer.contract, models.tflite(name)).train(start, samples, PLAN).weights.tobytes()
        == one[: start.nbytes]
    )


def test_masked_examples_do_not_count(name: str) -> None:
    trainer, samples, start = models.trainer(name), models.samples(name), models.start(name)
    one_by_one = [trainer.evaluate(start, samples, rows=np.array([i], np.intp)) for i in range(20)]
    together = trainer.evaluate(start, first(samples, 20))
    assert together.correct == sum(r.correct for r in one_by_one)
    assert together.examples == 20
    assert together.loss_sum == pytest.approx(sum(r.loss_sum for r in one_by_one), rel=1e-5)


def test_no_test_samples_is_a_result_too(name: str) -> None:
    result = models.trainer(name).evaluate(models.start(name), first(models.samples(name), 0))
    assert (result.examples, result.correct, result.loss_sum) == (0, 0, 0.0)


@pytest.mark.parametrize("name", ["private", "regression"])
def test_divergence_is_reported_with_its_step(name: str) -> None:
    trainer, samples = models.trainer(name), models.samples(name)
    with pytest.raises(Diverged, match="lower the learning rate") as fault:
        trainer.train(models.start(name), samples, replace(PLAN, learning_rate=1e9))
    assert 1 < fault.value.step <= 18
    assert not fault.value.loss <= 1e3
    trainer.self_test()  # and the trainer serves on


def test_weights_that_end_without_meaning_are_divergence_too() -> None:
    """The last step's loss is of the weights before it."""
    samples = first(models.samples("private"), 8)
    plan = replace(PLAN, learning_rate=float("inf"), epochs=1)
    with pytest.raises(Diverged):
        models.trainer("private").train(models.start("private"), samples, plan)


class StopAfter:
    """A pace that ends training after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped


def test_stopping_gives_no_weights() -> None:
    trainer = models.trainer("classifier")
    args = models.start("classifier"), models.samples("classifier")
    whole = trainer.train(*args, PLAN)
    with pytest.raises(Stopped):
        trainer.train(*args, PLAN, pace=StopAfter(4))
    again = trainer.train(*args, PLAN)
    assert again.weights.tobytes() == whole.weights.tobytes()


def test_nothing_to_train_on() -> None:
    trainer, samples = models.trainer("private"), models.samples("private")
    with pytest.raises(LocalFault, match="no samples"):
        trainer.train(models.start("private"), first(samples, 0), PLAN)
    with pytest.raises(LocalFault, match="no epochs"):
        trainer.train(models.start("private"), samples, replace(PLAN, epochs=0))


def test_weights_of_another_model_are_refused() -> None:
    trainer, samples = models.trainer("private"), models.samples("private")
    with pytest.raises(LocalFault, match="the model wants"):
        trainer.evaluate(models.start("private")[1:], samples)


# --- what a schedule may ask ---------------------------------------------------------------------


def test_the_proximal_term_holds_federated_weights_back() -> None:
    trainer, start = models.trainer("classifier"), models.start("classifier")
    samples = models.samples("classifier")

    def moved(mu: float) -> tuple[float, Any]:
        result = trainer.train(start, samples, replace(PLAN, epochs=20, proximal_mu=mu))
        return float(np.linalg.norm(result.weights - start)), result.personal

    free, mine_free = moved(0.0)
    held, mine_held = moved(3.0)
    assert held < 0.5 * free
    assert np.linalg.norm(mine_held - mine_free) < 0.9 * np.linalg.norm(mine_free)
    # The anchor is where this training began, not where an earlier one did.
    elsewhere = start + np.float32(1.0)
    result = trainer.train(elsewhere, samples, replace(PLAN, epochs=1, proximal_mu=3.0))
    assert np.linalg.norm(result.weights - elsewhere) < np.linalg.norm(result.weights - start)


def test_clipping_bounds_what_one_example_does() -> None:
    trainer, start = models.trainer("private"), models.start("private")
    samples = first(models.samples("private"), 1)
    plan = replace(PLAN, learning_rate=1.0, epochs=1, example_clip=0.01)
    moved = trainer.train(start, samples, plan).weights - start
    assert np.linalg.norm(moved) == pytest.approx(0.01, rel=1e-3)


def test_noise_is_as_large_as_asked_and_repeats_only_when_told_to() -> None:
    trainer, start = models.trainer("private"), models.start("private")
    samples = first(models.samples("private"), 1)
    plan = replace(PLAN, learning_rate=1.0, epochs=1, example_clip=2**-10, noise_multiplier=1000.0)
    moved = [trainer.train(start, samples, plan).weights - start for _ in range(20)]
    assert len({m.tobytes() for m in moved}) == 20
    assert np.std(moved) == pytest.approx(1000 * 2**-10, rel=0.1)
    fixed = replace(plan, insecure_noise=True)
    assert len({trainer.train(start, samples, fixed).weights.tobytes() for _ in range(3)}) == 1


def test_a_model_that_cannot_is_not_asked() -> None:
    args = models.start("regression"), models.samples("regression")
    for plan in (replace(PLAN, example_clip=1.0), replace(PLAN, noise_multiplier=1.0)):
        with pytest.raises(LocalFault, match="--private"):
            models.trainer("regression").train(*args, plan)
    with pytest.raises(LocalFault, match="set example_clip too"):
        models.trainer("private").train(
            models.start("private"), models.samples("private"), replace(PLAN, noise_multiplier=1.0)
        )


# --- personal parameters -------------------------------------------------------------------------


def test_personal_parameters_are_trained_beside_and_given_back() -> None:
    trainer, start = models.trainer("classifier"), models.start("classifier")
    samples = models.samples("classifier")
    one = trainer.train(start, samples, PLAN)
    assert one.personal.shape == (trainer.contract.personal_size,) == (27,)
    initial = np.frombuffer(trainer.contract.initial_personal, "<f4")
    assert one.personal.tobytes() != initial.tobytes()
    again = trainer.train(start, samples, PLAN, personal=initial)
    assert again.personal.tobytes() == one.personal.tobytes()
    on = trainer.train(start, samples, PLAN, personal=one.personal)
    assert on.loss_first < one.loss_first
    stranger = trainer.evaluate(one.weights, samples)
    mine = trainer.evaluate(one.weights, samples, personal=one.personal)
    assert mine.loss_sum < stranger.loss_sum


# --- traps of TFLite -----------------------------------------------------------------------------


def test_variables_live_with_the_interpreter() -> None:
    """Runners share them, dropping one changes nothing, and a second interpreter has its own."""
    graph = models.tflite("private")

    def weights(interpreter: Any) -> Any:
        return interpreter.get_signature_runner("get_weights")()

    one, other = open_interpreter(graph), open_interpreter(graph)
    initial = weights(one)["w0"]
    assert initial.ravel().tobytes() == models.start("private")[: initial.size].tobytes()
    changed = {k: v + np.float32(1) for k, v in weights(one).items()}
    one.get_signature_runner("set_weights")(**changed)
    assert weights(one)["w0"].tobytes() == changed["w0"].tobytes()
    assert weights(other)["w0"].tobytes() == initial.tobytes()


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("x", np.zeros((8, models.INPUTS), np.float64)),
        ("y", np.zeros(8, np.int64)),
        ("m", np.zeros(7, np.float32)),
    ],
)
def test_a_wrong_type_or_size_is_an_error_and_no_crash(key: str, wrong: Any) -> None:
    runner = open_interpreter(models.tflite("private")).get_signature_runner("evaluate")
    right = {
        "x": np.zeros((8, models.INPUTS), np.float32),
        "y": np.zeros(8, np.int32),
        "m": np.ones(8, np.float32),
    }
    with pytest.raises((ValueError, RuntimeError)):
        runner(**right | {key: wrong})
    assert float(runner(**right)["examples"].sum()) == 8


def test_two_trainers_in_two_threads_agree() -> None:
    start, samples = models.start("classifier"), models.samples("classifier", 400)

    def run(_: int) -> bytes:
        return models.trainer("classifier").train(start, samples, PLAN).weights.tobytes()

    with ThreadPoolExecutor(2) as pool:
        assert len({*pool.map(run, range(4)), run(0)}) == 1


class Held:
    """A pace that lets the test in at the first step."""

    def __init__(self) -> None:
        self.inside, self.leave = threading.Event(), threading.Event()

    def step(self) -> None:
        self.inside.set()
        assert self.leave.wait(30)
        raise Stopped


def test_a_second_thread_is_turned_away() -> None:
    trainer, samples = models.trainer("private"), models.samples("private")
    start, pace = models.start("private"), Held()

    def hold() -> None:
        with pytest.raises(Stopped):
            trainer.train(start, samples, PLAN, pace=pace)

    thread = threading.Thread(target=hold)
    thread.start()
    assert pace.inside.wait(30)
    with pytest.raises(LocalFault, match="one call at a time"):
        trainer.evaluate(start, samples)
    pace.leave.set()
    thread.join(30)


def test_a_forked_process_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, samples = models.trainer("private"), models.samples("private")
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    for call in (
        lambda: trainer.train(models.start("private"), samples, PLAN),
        lambda: trainer.evaluate(models.start("private"), samples),
        trainer.self_test,
    ):
        with pytest.raises(LocalFault, match="fork"):
            call()


def test_tensorflow_stays_out() -> None:
    assert "tensorflow" not in sys.modules

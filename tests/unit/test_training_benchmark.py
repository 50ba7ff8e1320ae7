"""The training benchmark: what it feeds, how it judges, and that it survives what is missing."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.training import race, side_numpy, targets
from benchmarks.training.models import BATCH, MODELS, batches, initial_weights
from benchmarks.training.race import Result, Way


def result(side: str, *times: float, losses: tuple[float, ...] = (1.0, 0.5)) -> Result:
    return Result(Way(side, "x", "python"), list(losses), list(times), [times[0]])


def test_the_faster_of_both_frameworks_is_the_target() -> None:
    others = [result("tensorflow", 90.0), result("tensorflow", 50.0), result("torch", 60.0)]
    slow = targets.step([result("qflare", 51.0), *others])
    fast = targets.step([result("qflare", 49.0), result("numpy", 1.0), *others])
    assert slow is not None
    assert (slow.limit, slow.ok) == (50.0, False)
    assert fast is not None
    assert fast.ok


@pytest.mark.parametrize("there", ["qflare", "tensorflow"])
def test_nothing_is_judged_without_both(there: str) -> None:
    assert targets.step([result("numpy", 1.0), result(there, 2.0)]) is None


@pytest.mark.parametrize(("last", "ok"), [(0.50005, True), (0.5002, False), (float("nan"), False)])
def test_a_loss_that_strays_is_flagged(last: float, ok: bool) -> None:
    ours = result("qflare", 1.0, losses=(1.0, last))
    (verdict,) = targets.agreement([result("tensorflow", 1.0), ours])
    assert verdict.ok is ok
    assert ("MISSED" in str(verdict)) is not ok


def test_a_file_may_have_its_parameters_and_a_bit() -> None:
    assert targets.file_size(150_000 + 5_200, 1_000).ok
    assert not targets.file_size(150_000 + 5_201, 1_000).ok


@pytest.mark.parametrize("name", side_numpy.DENSE)
def test_the_pass_by_hand_follows_the_gradient(name: str) -> None:
    model = MODELS[name]
    side = side_numpy.Side(model, "by hand", 1, "")
    random = np.random.Generator(np.random.PCG64(1))
    for tensor, value in enumerate(initial_weights(model)):
        at = tuple(random.integers(0, value.shape))
        side.reset()
        side.step(0)
        gradient = (value[at] - side.weights[tensor][at]) / model.learning_rate
        ends = []
        for shift in (1e-2, -1e-2):
            side.reset()
            side.weights[tensor][at] += shift
            ends.append(side.step(0))
        assert gradient == pytest.approx((ends[0] - ends[1]) / 2e-2, abs=2e-3)


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_batches_are_the_same_in_every_process(name: str) -> None:
    model = MODELS[name]
    assert [w.shape for w in initial_weights(model)] == [shape for _, shape in model.parameters]
    for once, again in zip(initial_weights(model), initial_weights(model), strict=True):
        assert once.tobytes() == again.tobytes()
    x, y = batches(model)[0]
    assert x.shape == (BATCH, *model.input_shape)
    assert (y is None) == (model.classes == 0)


def test_processes_take_turns_and_one_that_cannot_start_is_named() -> None:
    good = Way("numpy", "by hand", sys.executable)
    no_file = Way("qflare", "LiteRT", sys.executable, Path("no-such-file.tflite"))
    results, failed = race.race([good, no_file], "autoencoder", threads=1, turns=2)
    assert [r.way for r in results] == [good]
    assert len(results[0].losses) == race.LOSS_STEPS
    assert len(results[0].medians) == 2
    assert min(results[0].times) > 0
    assert "no-such-file.tflite" in failed[no_file]


def test_a_framework_that_is_missing_is_named() -> None:
    pythons = {"numpy": sys.executable, "torch": "/no/such/python"}
    said, missing = race.ask_versions(pythons)
    assert said["numpy"]["variants"]["gru"] == []
    assert "No such file" in missing["torch"]

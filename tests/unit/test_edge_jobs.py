"""What a round asks of a device besides plain training, on models of every kind."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import events as ev
from edge_runtime.training.messages import Bench
from edge_runtime.workbench import Workbench
from qflare.envelope import Update
from qflare.messages import UpdatePayload
from qflare.names import Digest
from tests import models
from tests.edge_lab import POLICY, Lab
from tests.training_kit import bench_in, evaluate, keep_blobs, train


def lab_of(name: str) -> Lab:
    contract = models.contract(name)
    start = models.start(name).astype("<f4").tobytes()
    return Lab(models.tflite(name), start, contract.spec.tensors, contract.rows)


def bench_of(lab: Lab, folder: Path, name: str, test: int = 25) -> Bench:
    keep_blobs(folder, lab.graph, lab.genesis)
    write(folder / "data.npz", name, test)
    return bench_in(folder)


def write(path: Path, name: str, test: int = 25, seed: int = 1) -> None:
    arrays = {}
    for part, size in (("train", 44), ("test", test)):
        samples = models.samples(name, size, seed)
        arrays[f"x_{part}"] = samples.x * 2 + np.float32(0.5)
        if samples.y is not None:
            arrays[f"y_{part}"] = samples.y
    new = path.with_suffix(".new.npz")
    np.savez(new, **arrays)
    new.rename(path)


def order(lab: Lab, **schedule: Any) -> ev.Train:
    plan = replace(POLICY.schedule, local_epochs=5, **schedule)
    return ev.Train(lab.claims(1), replace(POLICY, schedule=plan), Digest.of(lab.graph))


def finished(outcome: object) -> ev.TrainingFinished:
    assert isinstance(outcome, ev.TrainingFinished), outcome
    return outcome


def opened(lab: Lab, done: ev.TrainingFinished) -> UpdatePayload:
    return Update.parse(done.update, 100_000).open(lab.kem)


def reason(outcome: object) -> str:
    assert isinstance(outcome, ev.TrainingFailed), outcome
    assert not outcome.stopped
    return outcome.reason


@pytest.mark.parametrize("name", models.NAMES)
def test_an_update_says_how_the_model_did_before_and_after(name: str, tmp_path: Path) -> None:
    lab = lab_of(name)
    bench = bench_of(lab, tmp_path, name)
    done = finished(train(Workbench(), lab, order(lab), bench))
    payload = opened(lab, done)
    counts, (before, after) = payload.tallies[:-2], payload.tallies[-2:]
    test = models.samples(name, 25)
    if lab.classes > 1:
        assert test.y is not None
        assert [*counts[::3]] == [*np.bincount(test.y, minlength=lab.classes)]
        assert sum(counts[2::3]) > sum(counts[1::3])
    else:
        assert counts[0] == 25
    assert before > after > 0
    start = models.trainer(name).evaluate(models.start(name), test)
    assert before == pytest.approx(start.loss_sum * 1024, abs=1)
    assert (done.personal is None) == (name != "classifier")
    assert done.stats.counters  # and what else a round notes


def test_no_more_examples_are_judged_than_count(tmp_path: Path) -> None:
    lab = lab_of("private")
    bench = bench_of(lab, tmp_path, "private", test=90)
    small = order(lab)
    small = replace(small, policy=replace(small.policy, weight_cap=40))
    payload = opened(lab, finished(train(Workbench(), lab, small, bench)))
    assert payload.weight == sum(payload.tallies[:-2:3]) == 40


def test_a_device_without_a_test_part_sends_zeros(tmp_path: Path) -> None:
    lab = lab_of("private")
    bench = bench_of(lab, tmp_path, "private", test=0)
    payload = opened(lab, finished(train(Workbench(), lab, order(lab), bench)))
    assert payload.tallies == (0,) * 11


def test_personal_parameters_go_on_from_where_they_were(tmp_path: Path) -> None:
    lab = lab_of("classifier")
    bench, workbench = bench_of(lab, tmp_path, "classifier"), Workbench()
    first = finished(train(workbench, lab, order(lab), bench))
    assert first.personal is not None
    assert len(first.personal) == 4 * 27
    again = finished(train(workbench, lab, order(lab), bench))
    assert again.personal == first.personal
    on = finished(train(workbench, lab, order(lab), bench, None, first.personal))
    assert opened(lab, on).tallies[-2] < opened(lab, first).tallies[-2]
    other = finished(train(workbench, lab, order(lab), bench, None, first.personal[4:]))
    assert other.personal == first.personal  # of another model: no use
    check = ev.Evaluate(Digest.of(lab.genesis), Digest.of(lab.graph))
    mine, theirs = (evaluate(workbench, check, bench, p) for p in (first.personal, None))
    assert isinstance(mine, ev.Evaluated)
    assert isinstance(theirs, ev.Evaluated)
    assert mine.loss_sum < theirs.loss_sum


def test_a_policy_that_the_model_cannot_follow_is_no_update(tmp_path: Path) -> None:
    lab = lab_of("regression")
    bench = bench_of(lab, tmp_path, "regression")
    asked = order(lab, example_clip=1.0, noise_multiplier=1.0)
    assert "--private" in reason(train(Workbench(), lab, asked, bench))


def test_private_and_proximal_training_reach_the_model(tmp_path: Path) -> None:
    lab = lab_of("private")
    bench, workbench = bench_of(lab, tmp_path, "private"), Workbench()

    def update(**schedule: float) -> bytes:
        return opened(lab, finished(train(workbench, lab, order(lab, **schedule), bench))).encoded

    plain = update()
    different = [
        update(proximal_mu=1.0),
        update(example_clip=0.1),
        update(example_clip=0.1, noise_multiplier=1.0),
    ]
    assert len({plain, *different}) == 4
    assert update() == plain


def test_time_that_is_up_is_reported(tmp_path: Path) -> None:
    lab = lab_of("private")
    bench = replace(bench_of(lab, tmp_path, "private"), max_seconds=1e-9)
    asked = order(lab)
    assert "longer than 1e-09 s; raise training.max_seconds" in reason(
        train(Workbench(), lab, asked, bench)
    )


def test_a_new_data_file_is_used_and_checked(tmp_path: Path) -> None:
    lab = lab_of("features")
    bench, workbench = bench_of(lab, tmp_path, "features"), Workbench()
    asked = order(lab)
    first = opened(lab, finished(train(workbench, lab, asked, bench)))
    write(tmp_path / "data.npz", "features", seed=2)
    second = opened(lab, finished(train(workbench, lab, asked, bench)))
    assert second.tallies != first.tallies
    assert second == opened(lab, finished(train(Workbench(), lab, asked, bench)))
    write(tmp_path / "data.npz", "regression")
    assert "wants int32" in reason(train(workbench, lab, asked, bench))


def test_features_are_computed_once_for_all_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime import features

    lab = lab_of("features")
    bench, workbench = bench_of(lab, tmp_path, "features"), Workbench()
    asked = order(lab)
    first = opened(lab, finished(train(workbench, lab, asked, bench)))
    monkeypatch.setattr(features.Computed, "read", lambda *_: pytest.fail("computed again"))
    assert opened(lab, finished(train(workbench, lab, asked, bench))) == first


_MEMORY = """
    import json, sys
    from pathlib import Path
    from qflare.host.memory import one_heap
    one_heap()
    from edge_runtime.sources.npz import NpzSource
    from edge_runtime.trainer import Plan
    from tests import models

    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    trainer, start = models.trainer("autoencoder"), models.start("autoencoder")
    trainer.train(start, models.samples("autoencoder"), Plan(0.001, 1, 1))
    before = anonymous()

    class Enough(Exception):
        pass

    class Pace:
        left = 3000
        def step(self):
            self.left -= 1
            if not self.left:
                raise Enough

    train = NpzSource(Path(sys.argv[1]), trainer.contract).train()
    try:
        trainer.train(start, train, Plan(0.001, 1, 1), pace=Pace())
    except Enough:
        print(json.dumps({"examples": len(train), "grown_kb": anonymous() - before}))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """200 MB of small rows: an order of them alone would take 64 MB."""
    size = 200_000_000 // (4 * models.INPUTS)
    x = np.random.Generator(np.random.PCG64(1)).random((size, models.INPUTS), np.float32)
    np.savez(tmp_path / "large.npz", x_train=x, x_test=x[:0])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_MEMORY), tmp_path / "large.npz"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["examples"] == size
    assert found["grown_kb"] < 10_000

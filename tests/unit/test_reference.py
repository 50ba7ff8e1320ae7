"""The reference run: its arithmetic on a small fleet, its command, its reproducibility."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.contract import parse_contract
from edge_runtime.reference import from_workdir, main, run_reference
from edge_runtime.seeds import training_seed
from edge_runtime.sources.npz import NpzSource
from edge_runtime.trainer import Plan, Trainer
from qflare import zoo
from qflare.faults import LocalFault
from qflare.names import DeviceId, Digest
from qflare.schedule import Schedule
from qflare.simulate.data import DeviceData, Labelled, write_device
from qflare.tensors import weights_to_bytes
from qflare.zoo.formula import sine_batch

FEDAVG = Schedule(
    rounds=2,
    local_epochs=2,
    learning_rate=0.05,
    learning_rate_final_fraction=1.0,
    server_momentum=0.0,
    server_learning_rate=1.0,
)
A, B = DeviceId.parse("a"), DeviceId.parse("b")


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Two devices with 30 and 10 examples."""
    x, y, _ = sine_batch(40, (128, 6), 7)
    for device, part in ((A, slice(0, 30)), (B, slice(30, 40))):
        both = Labelled(x[part], y[part])
        write_device(tmp_path / f"{device}.npz", DeviceData(device, both, both))
    return tmp_path


def test_one_round_is_the_weighted_mean(workdir: Path) -> None:
    files = zoo.load("watch_cnn")
    contract = parse_contract(files.tflite)
    trainer = Trainer(contract, files.tflite)
    start = np.frombuffer(files.weights, "<f4")
    fleet = {d: NpzSource(workdir / f"{d}.npz", contract) for d in (A, B)}
    mean = np.zeros(start.size)
    for device, share in ((A, 0.75), (B, 0.25)):
        seed = training_seed(5, 1, device)
        trained = trainer.train(start, fleet[device].train(), Plan(0.05, 2, seed))
        mean += share * (trained.weights.astype(np.float64) - start)
    result = run_reference(trainer, start, fleet, FEDAVG, seed=5, rounds=1)
    want = (start + mean).astype(np.float32)
    assert result.model == str(Digest.of(weights_to_bytes(want)))
    assert result.accuracy_by_round == (result.final_accuracy,)


def test_cohorts_and_weight_caps_matter(workdir: Path) -> None:
    everybody = from_workdir(workdir, "watch_cnn", FEDAVG, seed=0)
    assert from_workdir(workdir, "watch_cnn", FEDAVG, seed=0).model == everybody.model
    assert from_workdir(workdir, "watch_cnn", FEDAVG, seed=1).model != everybody.model
    capped = from_workdir(workdir, "watch_cnn", FEDAVG, seed=0, weight_cap=1)
    alone = from_workdir(workdir, "watch_cnn", FEDAVG, seed=0, cohorts=[[A], [B]])
    assert len({everybody.model, capped.model, alone.model}) == 3
    with pytest.raises(LocalFault, match="nobody trained in round 2"):
        from_workdir(workdir, "watch_cnn", FEDAVG, seed=0, cohorts=[[A], []])


def test_the_command_prints_one_object(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = workdir / "schedule.json"
    plan.write_text(json.dumps(asdict(FEDAVG)))
    final = workdir / "final.f32"
    told = ["--workdir", str(workdir), "--schedule", str(plan), "--save", str(final), "--json"]
    assert main(told) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["final_accuracy"] == said["accuracy_by_round"][-1]
    assert said["model"] == str(Digest.of(final.read_bytes()))
    assert main(["--workdir", str(workdir / "none"), "--schedule", str(plan)]) == 1
    assert "no .npz files" in capsys.readouterr().err


def test_training_seeds_differ_by_every_part() -> None:
    seeds = {training_seed(s, t, d) for s in (0, 1) for t in (1, 2) for d in (A, B)}
    assert len(seeds) == 8

"""Features are those of the model, computed once, and never anybody else's."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import features
from edge_runtime.features import Kept
from edge_runtime.sources.base import Examples, Rows, Samples, Values
from edge_runtime.trainer import Plan
from qflare.faults import LocalFault
from tests import models

PLAN = Plan(learning_rate=0.05, epochs=4, seed=7)


class Counting:
    """Examples that count how often each was read."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.reads = np.zeros(len(samples), int)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        if x is not None:
            np.add.at(self.reads, rows, 1)
        self.samples.read(rows, x, y)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_frozen_part_runs_once_for_each_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.setattr(features, "IN_MEMORY_MAX", 0)
    trainer, start = models.trainer("features"), models.start("features")
    raw = Counting(models.samples("features"))
    made = trainer.features(raw, tmp_path)
    assert made is not None
    kept = Kept(raw, made)
    with_kept = trainer.train(start, kept, PLAN)
    assert (raw.reads == 1).all()
    assert not [*tmp_path.iterdir()]  # the file has no name
    anew = trainer.train(start, raw, PLAN)
    assert (raw.reads == 1 + PLAN.epochs).all()
    assert with_kept.weights.tobytes() == anew.weights.tobytes()
    assert trainer.evaluate(start, kept) == trainer.evaluate(start, raw)


def test_features_are_what_infer_goes_through() -> None:
    """The same output, by way of the features and at once."""
    trainer, samples = models.trainer("features"), models.samples("features", 8)
    raw: dict[str, Any] = trainer._engine.call["infer"](x=samples.x)
    hits = int((raw["output"].argmax(axis=1) == samples.y).sum())
    assert trainer.evaluate(models.start("features"), samples).correct == hits


def test_no_room_is_slower_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, samples = models.trainer("features"), models.samples("features")
    monkeypatch.setattr(features, "ON_DISK_MAX", 10)
    assert trainer.features(samples, tmp_path) is None
    monkeypatch.undo()
    monkeypatch.setattr(features, "IN_MEMORY_MAX", 0)
    assert trainer.features(samples, tmp_path / "none") is None
    with monkeypatch.context() as patch:
        patch.setattr(features, "free_bytes", lambda _: 10)  # half of it would do for nothing
        assert trainer.features(samples, tmp_path) is None
    assert trainer.features(samples, tmp_path) is not None

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert trainer.features(samples, tmp_path) is None
    assert models.trainer("private").features(samples, tmp_path) is None


def test_features_of_other_examples_are_refused(tmp_path: Path) -> None:
    trainer = models.trainer("features")
    made = trainer.features(models.samples("features"), tmp_path)
    assert made is not None
    other: Examples = models.samples("features", 45)
    with pytest.raises(LocalFault, match="other examples"):
        Kept(other, made)


def test_a_disk_never_holds_features_that_it_could_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "IN_MEMORY_MAX", 0)
    trainer, samples = models.trainer("features"), models.samples("features")
    written: list[bytes] = []
    real = os.pwrite

    def spy(file: int, data: memoryview, at: int) -> int:
        written.append(bytes(data))
        return real(file, data, at)

    monkeypatch.setattr(os, "pwrite", spy)
    made = trainer.features(samples, tmp_path)
    assert made is not None
    shape = (len(samples), *(trainer.contract.features_shape or ()))
    clear = np.zeros(shape, np.float32)
    Kept(samples, made).read(np.arange(len(samples)), clear, None)
    assert np.abs(clear).sum() > 0
    disk = b"".join(written)
    assert len(disk) == clear.nbytes
    assert not any(row.tobytes()[:16] in disk for row in clear if row.any())
    again = trainer.features(samples, tmp_path)
    assert again is not None
    assert b"".join(written[len(samples) :]) != disk  # another key for each file

"""Every kind of source ends in training: the real interpreter, on data as it lies on a device."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from edge_runtime.contract import ModelContract
from edge_runtime.sources.opening import open_source
from edge_runtime.sources.settings import (
    DataSection,
    FormatSection,
    HoldoutSection,
    LabelSection,
    SerialSection,
    TimeSection,
)
from edge_runtime.trainer import Trainer, plan_of
from qflare import zoo
from qflare.tensors import weights_from_bytes
from tests.source_kit import (
    CLASSES,
    START_US,
    fill_ring,
    motion,
    settle,
    watch_channels,
    zoo_bytes,
    zoo_contract,
)

KINDS = (1, 4)  # of motion, that are to be told apart


def improves(
    settings: DataSection, name: str, tmp: Path, epochs: int, key: bytes | None = None
) -> None:
    """A model of the zoo gets better on the source's own test part."""
    contract: ModelContract = zoo_contract(name)
    source = open_source(settings, contract, tmp / "scratch", None, key)
    train, test = source.train(), source.test()
    assert len(test) > 3, source.report()
    trainer = Trainer(contract, zoo_bytes(name))
    start = weights_from_bytes(zoo.load(name).weights, contract.spec.size)
    schedule = replace_epochs(zoo.recommended_schedule(name), epochs)
    plan = plan_of(schedule, 1, 7, insecure_noise=False)
    before = trainer.evaluate(start, test)
    result = trainer.train(start, train, plan)
    after = trainer.evaluate(result.weights, test)
    assert result.examples == len(train) * epochs or result.examples == len(train)
    assert after.loss_sum < 0.8 * before.loss_sum
    assert after.correct > before.correct or before.correct == before.examples


def replace_epochs(schedule: Any, epochs: int) -> Any:
    import dataclasses

    return dataclasses.replace(schedule, local_epochs=epochs)


def base(path: Path, kind: Any, **changes: Any) -> DataSection:
    settings = DataSection(
        path,
        kind,
        50.0,
        watch_channels(),
        time=TimeSection("seconds"),
        label=LabelSection("field", ("exercise",)),
        holdout=HoldoutSection(0.3, 10.0),
        serial=SerialSection(port="/dev/null"),
        format=FormatSection("json"),
    )
    return replace(settings, **changes)


@pytest.mark.parametrize("sealed", [False, True])
def test_collected_samples(tmp_path: Path, sealed: bool) -> None:
    key = bytes(32) if sealed else None
    settings = base(tmp_path / "ring", "serial")
    parts = [(START_US + i * 10**9, CLASSES[k], motion(4000, k, i)) for i, k in enumerate(KINDS)]
    fill_ring(settings, parts, key)
    improves(settings, "watch_cnn", tmp_path, 3, key)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for k in KINDS:
        values, seconds = motion(4000, k), 1.7e9 + 1000 * k + np.arange(4000) / 50
        names = ["seconds", "exercise", *(c.name for c in watch_channels())]
        if kind == "csv":
            lines = [",".join(names)]
            for time, row in zip(seconds, values.tolist(), strict=True):
                lines.append(f"{time:.2f},{CLASSES[k]}," + ",".join(f"{v:.5g}" for v in row))
            (folder / f"{k}.csv").write_text("\n".join(lines))
        else:
            pa = pytest.importorskip("pyarrow")
            columns = [seconds, [CLASSES[k]] * 4000, *values.T]
            data = dict(zip(names, columns, strict=True))
            pytest.importorskip("pyarrow.parquet").write_table(
                pa.table(data), folder / f"{k}.parquet"
            )
    settle(folder)
    improves(base(folder, kind), "watch_cnn", tmp_path, 3)


def test_archives(tmp_path: Path) -> None:
    folder = tmp_path / "npz"
    folder.mkdir()
    for k in KINDS:
        x = motion(128 * 80, k).reshape(80, 128, 6)
        np.savez(folder / f"{k}.npz", x=x, y=np.full(80, k, np.int32))
    settle(folder)
    improves(base(folder, "npz-folder", label=LabelSection()), "watch_cnn", tmp_path, 3)


def test_pictures(tmp_path: Path) -> None:
    random = np.random.Generator(np.random.PCG64(1))
    for name, shade in (("coat", 60), ("bag", 190)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(60):
            array = np.clip(random.normal(shade, 30, (56, 56)), 0, 255).astype(np.uint8)
            Image.fromarray(array).save(tmp_path / "pictures" / name / f"{i}.jpg")
    settle(tmp_path)
    settings = base(tmp_path / "pictures", "camera", label=LabelSection("folder"))
    improves(settings, "fashion_cnn", tmp_path, 4)

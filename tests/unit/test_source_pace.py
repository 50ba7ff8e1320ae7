"""A look at a large folder can be stopped, held and told from standing still."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import msgspec
import numpy as np
import pytest
from PIL import Image

from edge_runtime.contract import ModelContract
from edge_runtime.pacing import OutOfTime, Stopped
from edge_runtime.sources.opening import open_source
from edge_runtime.sources.settings import DataSection, LabelSection, TimeSection
from edge_runtime.training import pace as pace_module
from edge_runtime.training.messages import EvaluateOrder, Failed
from edge_runtime.workbench import Workbench
from qflare.names import Digest
from tests.edge_lab import Lab
from tests.source_kit import motion, settle, watch_channels, zoo_contract
from tests.training_kit import bench_in, keep_blobs

WATCH = zoo_contract("watch_cnn")
Made = tuple[DataSection, ModelContract]


class Pace:
    """Counts, and ends the third step if it is to."""

    def __init__(self, end: Callable[[], BaseException] | None = None) -> None:
        self.steps, self._end = 0, end

    def step(self) -> None:
        self.steps += 1
        if self.steps == 3 and self._end is not None:
            raise self._end()


def npz_folder(tmp: Path) -> Made:
    for i in range(4):
        x = motion(128 * 4, i).reshape(4, 128, 6)
        np.savez(tmp / f"{i}.npz", x=x, y=np.zeros(4, np.int32))
    return DataSection(tmp, "npz-folder", channels=watch_channels()), WATCH


def npz(tmp: Path) -> Made:
    x = np.random.Generator(np.random.PCG64(1)).normal(size=(1000, 128, 6)).astype(np.float32)
    parts = {f"x_{p}": x for p in ("train", "test")}
    labels = {f"y_{p}": np.zeros(1000, np.int32) for p in ("train", "test")}
    np.savez(tmp / "a.npz", **parts, **labels)  # type: ignore[arg-type]
    return DataSection(tmp / "a.npz", "npz"), WATCH


def pictures(tmp: Path) -> Made:
    contract = zoo_contract("fashion_cnn")
    rows, columns, channels = contract.input_shape
    noise = np.random.Generator(np.random.PCG64(1))
    (tmp / "0").mkdir()
    for i in range(4):
        pixels = noise.integers(0, 255, (rows, columns), np.uint8)
        Image.fromarray(pixels, "L" if channels == 1 else "RGB").save(tmp / f"0/{i}.png")
    return DataSection(tmp, "camera", label=LabelSection("folder")), contract


def tables(tmp: Path) -> Made:
    names = [channel.name for channel in watch_channels()]
    lines = [",".join(["t", *names])]
    for i, row in enumerate(motion(5000, 1).tolist()):
        lines.append(",".join(map(str, [i / 50, *row])))
    (tmp / "a.csv").write_text("\n".join(lines))
    label = LabelSection("folder")
    section = DataSection(tmp, "csv", 50.0, watch_channels(), time=TimeSection("t"), label=label)
    return section, WATCH


KINDS = [npz_folder, npz, pictures, tables]


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_asks_between_two_pieces(make: Callable[[Path], Made], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    settings, contract = make(folder)
    settle(folder)
    pace = Pace()
    open_source(settings, contract, tmp_path / "scratch", pace=pace)
    assert pace.steps >= 4
    for end in (Stopped, lambda: OutOfTime(5.0)):
        scratch = tmp_path / f"scratch-{end.__name__}"
        with pytest.raises((Stopped, OutOfTime)):  # not as a fault of one file
            open_source(settings, contract, scratch, pace=Pace(end))
    open_source(settings, contract, tmp_path / "scratch-Stopped").test()


def test_the_daemon_hears_that_it_gets_on_and_can_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace_module, "SAY_EVERY_S", 0.0)
    lab = Lab.with_zoo()
    keep_blobs(tmp_path, lab.graph, lab.genesis)
    folder = tmp_path / "data"
    folder.mkdir()
    settings, _ = npz_folder(folder)
    settle(folder)
    bench = replace(bench_in(tmp_path), data=msgspec.json.encode(settings, enc_hook=str))
    order = EvaluateOrder(1, bench, Digest.of(lab.graph), Digest.of(lab.genesis))
    stop, told = Event(), []

    def say(stage: str, steps: int) -> None:
        told.append((stage, steps))
        if (stage, steps) == ("preparing", 2):
            stop.set()

    ended = Workbench().do(order, stop, say=say)
    assert isinstance(ended, Failed)
    assert ended.stopped
    assert ("preparing", 1) in told
    assert not any(stage == "testing" for stage, _ in told)

"""Data sets other than the watch's: read strictly, dealt without a leak, to any size of fleet."""

import gzip
import struct
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from qflare import zoo
from qflare.faults import LocalFault
from qflare.names import DeviceId
from qflare.simulate.data import DeviceData, DeviceFile, Labelled, fashion, shuttle, write_device
from qflare.simulate.data.split import dirichlet

needs_river = pytest.mark.skipif(
    find_spec("river") is None, reason="river is not installed (pip install 'qflare[demo]')"
)


def idx(*shape: int, data: bytes | None = None) -> bytes:
    """An idx file of bytes, packed."""
    body = bytes(int(np.prod(shape))) if data is None else data
    head = bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
    return gzip.compress(head + body, 1, mtime=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another Fashion-MNIST: 32,000 pictures whose first pixels are their number."""
    folder = tmp_path_factory.mktemp("fashion")
    for part, size in (("train", 26_000), ("t10k", 6_000)):
        x = np.zeros((size, 28, 28), np.uint8)
        x[:, 0, 0], x[:, 0, 1] = np.arange(size) % 251, np.arange(size) // 251
        x[:, 0, 2] = part == "t10k"
        kinds = np.arange(size, dtype=np.uint8) % 10
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(size, 28, 28, data=x.tobytes()))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(size, data=kinds.tobytes()))
    return folder


@pytest.fixture
def pictures(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Links to those files, where the data set looks for them."""
    monkeypatch.setenv(fashion.FOLDER_VARIABLE, str(tmp_path))
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def rows(labelled: Labelled) -> list[bytes]:
    return [x.tobytes() for x in labelled.x]


@pytest.mark.parametrize("validation", [False, True])
def test_fashion_is_dealt_once_and_unevenly(pictures: Path, validation: bool) -> None:
    fleet = fashion.prepare(pictures, 20, 3, validation=validation)
    assert [d.device for d in fleet] == [f"fashion-{i:04d}" for i in range(1, 21)]
    assert {(len(d.train), len(d.test)) for d in fleet} == {(1_000, 250)}
    dealt = [row for d in fleet for row in (*rows(d.train), *rows(d.test))]
    assert len(set(dealt)) == len(dealt) == 25_000
    for d in fleet:
        assert d.train.x.shape == (1_000, 28, 28, 1)
        assert (d.train.x.dtype, d.train.y.dtype) == (np.float32, np.int32)
        assert 0 <= d.train.x.min() <= d.train.x.max() <= 1
        assert set(d.test.x[:, 0, 2, 0] > 0) == {not validation}
    shares = np.array([np.bincount(d.train.y, minlength=10) for d in fleet]) / 1_000
    tested = np.array([np.bincount(d.test.y, minlength=10) for d in fleet]) / 250
    assert shares.max(axis=1).mean() > 0.3  # of its most frequent kind; 0.1 if dealt evenly
    assert np.abs(shares - tested).sum(axis=1).mean() < 0.35  # the same mixture


def test_fashion_of_other_sizes_and_seeds(pictures: Path) -> None:
    first, again, other = (fashion.prepare(pictures, 3, seed) for seed in (1, 1, 2))
    assert [rows(d.train) for d in first] == [rows(d.train) for d in again]
    assert [rows(d.train) for d in first] != [rows(d.train) for d in other]
    many = fashion.prepare(pictures, 400, 0)
    assert {(len(d.train), len(d.test)) for d in many} == {(50, 12)}
    with pytest.raises(LocalFault, match="too few pictures for 9000 devices"):
        fashion.prepare(pictures, 9_000, 0)


def test_fashion_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fashion.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(LocalFault, match="sudo apt install dataset-fashion-mnist"):
        fashion.prepare(tmp_path, 2, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        idx(2, 28, 28)[:-9],
        gzip.compress(b""),
        gzip.compress(b"\0\0\x08\x03\0\0"),
        idx(2, 28, 28, data=b"short"),
        idx(2, 28, 27),
        idx(2, 784),
        idx(3, 28, 28),
    ],
    ids=["plain", "cut", "empty", "no sizes", "too short", "other side", "flat", "too few"],
)
def test_fashion_that_is_damaged(pictures: Path, content: bytes) -> None:
    damaged = pictures / "train-images-idx3-ubyte.gz"
    damaged.unlink()
    damaged.write_bytes(content)
    with pytest.raises(LocalFault, match="again"):
        fashion.load("train")


def test_a_mixture_per_device() -> None:
    labels = np.repeat(np.arange(4, dtype=np.int32), 100)
    random = np.random.Generator(np.random.PCG64(0))
    hands = dirichlet((labels, labels), (100, 40), 4, 0.1, random)
    assert sorted(np.concatenate([train for train, _ in hands])) == [*range(400)]  # all, once
    for train, test in hands:
        assert (len(train), len(test)) == (100, 40)
        assert len(set(test)) == 40
    even = dirichlet((labels,), (80,), 4, 1e5, random)
    for (train,) in even:
        assert np.bincount(labels[train], minlength=4).min() > 8
    with pytest.raises(ValueError, match="want 101 examples each"):
        dirichlet((labels,), (101,), 4, 1.0, random)


@needs_river
@pytest.mark.parametrize("devices", [1, 20, 300])
def test_shuttle_trains_on_normal_readings_only(devices: int, tmp_path: Path) -> None:
    x, anomalous = shuttle.load()
    assert (x.shape, int(anomalous.sum())) == ((49_097, 9), 3_511)
    fleet = shuttle.prepare(tmp_path, devices, 0)
    assert len(fleet) == devices
    assert all(d.train.y is None and d.test.y is None for d in fleet)
    assert sum(len(d.train) + len(d.test) for d in fleet) == 45_586
    whole = np.concatenate([np.concatenate([d.train.x, d.test.x]) for d in fleet])
    normal = x[~anomalous]
    assert np.array_equal(np.sort(whole, axis=0), np.sort(normal, axis=0))
    for earlier, later in pairwise(fleet):  # stretches of time
        assert earlier.train.x[:, 0].max() <= later.train.x[:, 0].min() + 1e-6


@needs_river
def test_shuttle_constants_are_those_of_the_normal_readings() -> None:
    x, anomalous = shuttle.load()
    low, middle, high = np.percentile(x[~anomalous], (25, 50, 75), axis=0)
    np.testing.assert_allclose(shuttle.CENTRE, middle)
    np.testing.assert_allclose(shuttle.SPREAD, np.maximum(0.7413 * (high - low), 1), atol=2e-3)
    assert np.abs((x - shuttle.CENTRE) / shuttle.SPREAD).max() <= shuttle.REACH + 1e-3


def test_the_models_are_made_for_these_data_sets() -> None:
    sensors = zoo.load("shuttle_autoencoder").manifest.input
    assert (sensors.mean, sensors.scale) == (list(shuttle.CENTRE), list(shuttle.SPREAD))
    assert sensors.channels == list(shuttle.CHANNELS)
    assert zoo.load("fashion_cnn").manifest.classes == list(fashion.CLASSES)


@needs_river
def test_shuttle_is_judged_on_readings_that_nobody_trains_on(tmp_path: Path) -> None:
    x, anomalous = shuttle.judgement(tmp_path)
    assert (len(x), int(anomalous.sum())) == (11_396 + 3_511, 3_511)
    some, strange = shuttle.judgement(tmp_path, validation=True)
    assert (len(some), int(strange.sum())) == (8_547 + 1_755, 1_755)


def test_shuttle_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shuttle, "find_spec", lambda name: None)
    with pytest.raises(LocalFault, match=r"pip install 'qflare\[demo\]'"):
        shuttle.prepare(tmp_path, 1, 0)


@pytest.mark.parametrize(
    "text", ["", "f1,f2\n1,2\n", "f1,f2,f3,f4,f5,f6,f7,f8,f9,anomaly\n1,2,x\n"]
)
def test_shuttle_of_another_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "shuttle.csv.gz"
    file.write_bytes(gzip.compress(text.encode()))
    monkeypatch.setattr(shuttle, "_package_file", lambda: file)
    with pytest.raises(LocalFault, match="river"):
        shuttle.load()


def test_a_share_in_a_file_is_linked_or_copied(tmp_path: Path) -> None:
    part = Labelled(np.ones((2, 3), np.float32), None)
    source = tmp_path / "data" / "a.npz"
    write_device(source, DeviceData(DeviceId.parse("a"), part, part))
    with np.load(source) as file:
        assert sorted(file) == ["x_test", "x_train"]  # without labels, no y
    target = tmp_path / "site" / "samples.npz"
    DeviceFile(DeviceId.parse("a"), source).write(target)
    assert target.read_bytes() == source.read_bytes()


def test_a_share_is_copied_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a.npz", tmp_path / "b.npz"
    source.write_bytes(b"samples")

    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("os.link", refuse)
    DeviceFile(DeviceId.parse("a"), source).write(target)
    assert target.read_bytes() == b"samples"
    assert target.stat().st_ino != source.stat().st_ino

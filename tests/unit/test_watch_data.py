"""The watch recordings: opened only if known, cut so that nothing leaks, dealt to every fleet."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from qflare import zoo
from qflare.faults import LocalFault
from qflare.simulate.data import loader, watch
from qflare.simulate.data.watch import channel_statistics, load, prepare

pytestmark = pytest.mark.skipif(
    find_spec("seglearn") is None, reason="seglearn is not installed (pip install 'qflare[demo]')"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_twenty_natural_devices(cache: Path) -> None:
    fleet = loader("watch")(cache, 20, 0)
    assert [d.device for d in fleet] == [f"watch-{i:04d}" for i in range(1, 21)]
    assert sum(len(d.train) for d in fleet) == 2_648
    assert sum(len(d.test) for d in fleet) == 745
    for d in fleet:
        assert d.train.x.shape == (len(d.train), 128, 6)
        assert d.train.x.dtype == np.float32
        assert d.train.y.dtype == np.int32
        assert {*d.train.y} == {*range(7)}


def test_no_window_crosses_the_cut(cache: Path) -> None:
    """Every test window lies in the last quarter of a recording, every training one before it."""
    recordings = load(cache)
    for natural, device in enumerate(prepare(cache, 20, 0)):
        parts = [*recordings.of_device(natural)]
        early = {row.tobytes() for s, _ in parts for row in s[: len(s) * 3 // 4]}
        late = {row.tobytes() for s, _ in parts for row in s[len(s) * 3 // 4 :]}
        assert {row.tobytes() for w in device.train.x for row in w} <= early
        assert {row.tobytes() for w in device.test.x for row in w} <= late


def test_the_validation_split_never_sees_a_test_window(cache: Path) -> None:
    plain, split = prepare(cache, 20, 0), prepare(cache, 20, 0, validation=True)
    for full, part in zip(plain, split, strict=True):
        tested = {row.tobytes() for w in full.test.x for row in w}
        assert not tested & {row.tobytes() for w in part.train.x for row in w}
        assert not tested & {row.tobytes() for w in part.test.x for row in w}
    assert (sum(len(d.train) for d in split), sum(len(d.test) for d in split)) == (1_935, 505)


@pytest.mark.parametrize("devices", [1, 7, 23, 50, 400])
def test_any_size_of_fleet(cache: Path, devices: int) -> None:
    fleet = prepare(cache, devices, 0)
    assert len({d.device for d in fleet}) == len(fleet) == devices
    assert all(len(d.train) for d in fleet)
    if devices >= 20:  # every window has exactly one owner
        assert sum(len(d.train) for d in fleet) == 2_648
        assert sum(len(d.test) for d in fleet) == 745


def test_too_many_devices(cache: Path) -> None:
    with pytest.raises(LocalFault, match="too few windows for 5000 devices"):
        prepare(cache, 5_000, 0)


def test_the_cache_holds_what_the_package_holds(tmp_path: Path) -> None:
    first = load(tmp_path)
    (cached,) = tmp_path.iterdir()
    again = load(tmp_path)
    cached.write_bytes(cached.read_bytes()[:1_000])
    repaired = load(tmp_path)
    for other in (again, repaired):
        assert np.array_equal(first.samples, other.samples)
        assert np.array_equal(first.exercise, other.exercise)


def test_another_file_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "watch_dataset.npy"
    file.write_bytes(b"\x80\x04cos\nsystem\n.")
    monkeypatch.setattr(watch, "_package_file", lambda: file)
    with pytest.raises(LocalFault, match="not the one we know"):
        load(tmp_path / "cache")


def test_without_the_package_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "find_spec", lambda name: None)
    with pytest.raises(LocalFault, match=r"pip install 'qflare\[demo\]'"):
        load(tmp_path)


def test_unknown_data_set() -> None:
    with pytest.raises(LocalFault, match=r"choose from: .*watch"):
        loader("nonesuch")


@pytest.mark.parametrize("name", ["watch_cnn", "watch_gru"])
def test_the_models_carry_these_recordings_statistics(cache: Path, name: str) -> None:
    mean, scale = channel_statistics(load(cache))
    manifest = zoo.load(name).manifest
    np.testing.assert_allclose(manifest.input.mean, mean, atol=6e-6)
    np.testing.assert_allclose(manifest.input.scale, scale, atol=6e-6)
    assert manifest.classes == list(watch.EXERCISES)
    assert manifest.input.rate_hz == watch.RATE_HZ

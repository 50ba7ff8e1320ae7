"""A data file is read whole and checked, or refused with a message that names it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.contract import ModelContract, parse_contract
from edge_runtime.sources import npz
from edge_runtime.sources.npz import NpzSource
from qflare import zoo
from qflare.faults import LocalFault
from qflare.names import DeviceId
from qflare.simulate.data import DeviceData, Labelled, write_device

GOOD: dict[str, Any] = {
    "x_train": np.ones((5, 128, 6), np.float32),
    "y_train": np.arange(5, dtype=np.int32),
    "x_test": np.zeros((0, 128, 6), np.float32),
    "y_test": np.zeros(0, np.int32),
}


@pytest.fixture(scope="module")
def contract() -> ModelContract:
    model = zoo.load("watch_cnn")
    return parse_contract(model.manifest, model.tflite)


def test_reads_what_the_simulation_writes(tmp_path: Path, contract: ModelContract) -> None:
    path = tmp_path / "deep" / "device.npz"
    train = Labelled(GOOD["x_train"], GOOD["y_train"])
    test = Labelled(GOOD["x_test"], GOOD["y_test"])
    write_device(path, DeviceData(DeviceId.parse("one"), train, test))
    source = NpzSource(path, contract)
    assert [*source.train().y] == [0, 1, 2, 3, 4]
    assert source.train().x.dtype == np.float32
    want = (1 - np.array(contract.mean)) / contract.scale
    np.testing.assert_allclose(source.train().x[3, 77], want, rtol=1e-6)
    assert len(source.test()) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x_train": np.ones((5, 128, 5), np.float32)}, "x_train is float32"),
        ({"x_train": np.ones((5, 128, 6))}, "x_train is float64"),
        ({"x_train": np.ones((4, 128, 6), np.float32)}, "x_train is float32"),
        ({"x_train": np.full((5, 128, 6), np.nan, np.float32)}, "not finite"),
        ({"x_train": np.full((5, 128, 6), 3e38, np.float32)}, "not finite"),
        ({"y_train": np.arange(5)}, "want int32"),
        ({"y_train": np.arange(5, dtype=np.int32) + 3}, "outside 0…6"),
        ({"y_train": np.zeros((5, 1), np.int32)}, "x_train is float32"),
        ({"x_train": GOOD["x_test"], "y_train": GOOD["y_test"]}, "no training samples"),
        ({"y_test": np.array([object()])}, "no data file"),
    ],
)
def test_refuses_data_that_does_not_suit(
    tmp_path: Path,
    contract: ModelContract,
    change: dict[str, Any],
    says: str,
) -> None:
    path = tmp_path / "device.npz"
    np.savez(path, **{**GOOD, **change})
    with pytest.raises(LocalFault, match=says) as fault:
        NpzSource(path, contract)
    assert str(path) in str(fault.value)


def test_refuses_what_is_no_archive(tmp_path: Path, contract: ModelContract) -> None:
    path = tmp_path / "device.npz"
    with pytest.raises(LocalFault, match="does not exist"):
        NpzSource(path, contract)
    path.write_bytes(b"garbage" * 100)
    with pytest.raises(LocalFault, match="no data file"):
        NpzSource(path, contract)
    np.savez(path, x_train=GOOD["x_train"])
    with pytest.raises(LocalFault, match="y_train"):
        NpzSource(path, contract)


def test_refuses_a_small_file_that_unpacks_to_a_large_one(
    tmp_path: Path, contract: ModelContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "device.npz"
    np.savez_compressed(path, **GOOD)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(npz, "FILE_CEILING", 10_000)
    with pytest.raises(LocalFault, match="at most 10000"):
        NpzSource(path, contract)

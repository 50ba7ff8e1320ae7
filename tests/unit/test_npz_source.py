"""A data file is checked once and read row by row, or refused with a message that names it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as restate

from edge_runtime.contract import ModelContract
from edge_runtime.sources import npz
from edge_runtime.sources.base import Examples
from edge_runtime.sources.npz import NpzSource
from qflare.faults import LocalFault
from tests import models

N = models.INPUTS
X = np.arange(5 * N, dtype=np.float32).reshape(5, N)
NONE = np.zeros((0, N), np.float32)
LABELS: dict[str, Any] = {
    "private": np.array([0, 1, 2, 0, 1], np.int32),
    "multilabel": np.eye(5, 3, dtype=np.float32),
    "regression": np.arange(10, dtype=np.float32).reshape(5, 2),
    "autoencoder": None,
}


def good(name: str) -> dict[str, Any]:
    y = LABELS[name]
    labels = {} if y is None else {"y_train": y, "y_test": y[:0]}
    return {"x_train": X, "x_test": NONE} | labels


@pytest.fixture(scope="module", params=LABELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["at once", "row by row"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(npz, "SMALL", 0)


def read(examples: Examples, contract: ModelContract, rows: list[int]) -> tuple[Any, Any]:
    x = np.full((8, *contract.input_shape), -1, np.float32)
    y: Any = None
    if contract.label_shape is not None:
        y = np.full((8, *contract.label_shape), -1, contract.label_dtype)
    examples.read(np.array(rows, np.intp), x, y)
    assert (x[len(rows) :] == -1).all()
    return x[: len(rows)], None if y is None else y[: len(rows)]


@pytest.mark.usefixtures("both_ways")
def test_rows_come_scaled_with_their_labels(tmp_path: Path, name: str) -> None:
    path, contract = tmp_path / "device.npz", models.contract(name)
    np.savez(path, **good(name), more=np.zeros(3))
    source = NpzSource(path, contract)
    train = source.train()
    assert len(train) == 5
    assert len(source.test()) == 0
    x, y = read(train, contract, [3, 0, 3])
    np.testing.assert_array_equal(x, (X[[3, 0, 3]] - np.float32(0.5)) / np.float32(2.0))
    if LABELS[name] is not None:
        np.testing.assert_array_equal(y, LABELS[name][[3, 0, 3]])
        only = np.zeros_like(y)
        train.read(np.array([4, 1, 2], np.intp), None, only)
        np.testing.assert_array_equal(only, LABELS[name][[4, 1, 2]])


def test_every_piece_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "CHUNK", 2 * 4 * N)
    path, contract = tmp_path / "device.npz", models.contract("private")
    for row in range(5):
        x = X.copy()
        x[row, N - 1] = np.inf
        np.savez(path, **good("private") | {"x_train": x})
        with pytest.raises(LocalFault, match="x_train has values that are not finite"):
            NpzSource(path, contract)
    np.savez(path, **good("private"))
    assert len(NpzSource(path, contract).train()) == 5


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("private", {"x_train": np.ones((5, 7), np.float32)}, "x_train is float32.5, 7., private"),
        (
            "private",
            {"x_train": np.ones((5, N))},
            "x_train is float64.5, 6., private wants float32",
        ),
        ("private", {"x_train": X.astype(">f4")}, "x_train is >f4"),
        ("private", {"x_train": X[:4]}, "x_train has 4 examples, y_train has 5"),
        ("private", {"x_train": np.asfortranarray(X)}, "ascontiguousarray"),
        ("private", {"x_train": X * np.nan}, "not finite"),
        ("private", {"y_train": np.arange(5)}, "y_train is int64.5., private wants int32"),
        ("private", {"y_train": np.arange(5, dtype=np.int32)}, "classes outside 0…2"),
        ("private", {"y_train": np.full(5, -1, np.int32)}, "classes outside 0…2"),
        ("private", {"y_train": np.zeros((5, 1), np.int32)}, "y_train is int32.5, 1."),
        ("private", {"x_train": NONE, "y_train": np.zeros(0, np.int32)}, "no training samples"),
        ("private", {"y_test": np.array([object()])}, "no data file"),
        ("private", {"y_test": np.int32(3)}, "no data file"),
        ("multilabel", {"y_train": np.full((5, 3), 0.5, np.float32)}, "other than 0 and 1"),
        ("multilabel", {"y_train": np.zeros(5, np.int32)}, "wants float32.n, 3."),
        ("regression", {"y_train": np.full((5, 2), np.inf, np.float32)}, "y_train has values"),
        ("regression", {"y_train": np.zeros((5, 3), np.float32)}, "wants float32.n, 2."),
    ],
)
def test_refuses_data_that_does_not_suit(
    tmp_path: Path, name: str, change: dict[str, Any], says: str
) -> None:
    path = tmp_path / "device.npz"
    np.savez(path, **{**good(name), **change})
    with pytest.raises(LocalFault, match=says) as fault:
        NpzSource(path, models.contract(name))
    assert str(path) in str(fault.value)


def test_refuses_what_leaves_the_range_when_it_is_scaled(tmp_path: Path) -> None:
    path, contract = tmp_path / "device.npz", models.contract("private")
    np.savez(path, **good("private") | {"x_train": X + np.float32(1e38)})
    assert len(NpzSource(path, contract).train()) == 5
    says = restate(contract.manifest.input, scale=[0.1] * N)
    manifest = restate(contract.manifest, input=says)
    with pytest.raises(LocalFault, match="x_train has values that are not finite"):
        NpzSource(path, replace(contract, manifest=manifest))


def test_refuses_what_is_no_archive(tmp_path: Path) -> None:
    path, contract = tmp_path / "device.npz", models.contract("private")
    with pytest.raises(LocalFault, match="does not exist"):
        NpzSource(path, contract)
    path.write_bytes(b"garbage" * 100)
    with pytest.raises(LocalFault, match="no data file"):
        NpzSource(path, contract)
    np.savez(path, x_train=X)
    with pytest.raises(LocalFault, match="it has no y_train"):
        NpzSource(path, contract)


def test_refuses_a_compressed_file_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "device.npz"
    np.savez_compressed(path, **good("private"))
    with pytest.raises(LocalFault, match=r"write it with np\.savez, not") as fault:
        NpzSource(path, models.contract("private"))
    assert str(path) in str(fault.value)


def test_refuses_a_file_that_lies_about_its_sizes(tmp_path: Path) -> None:
    """An array that says that it has more rows than there are bytes would read its neighbours."""
    path, contract = tmp_path / "device.npz", models.contract("private")
    np.savez(path, **good("private"))
    honest = path.read_bytes()
    assert honest.count(b"(5, 6)") == 1
    path.write_bytes(honest.replace(b"(5, 6)", b"(9, 6)"))
    with pytest.raises(LocalFault, match="another size than it says"):
        NpzSource(path, contract)
    for cut in (10, len(honest) // 3, len(honest) // 2, len(honest) - 5):
        path.write_bytes(honest[:cut])
        with pytest.raises(LocalFault, match="no data file"):
            NpzSource(path, contract)


def test_refuses_a_file_that_can_only_be_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "device.npz"
    np.savez(path, **good("private"))
    monkeypatch.setattr(npz, "FILE_CEILING", 100)
    with pytest.raises(LocalFault, match="at most 100; split"):
        NpzSource(path, models.contract("private"))


def test_a_changed_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, contract = tmp_path / "device.npz", models.contract("private")
    np.savez(path, **good("private"))
    monkeypatch.setattr(npz, "SMALL", 0)
    source = NpzSource(path, contract)
    open_already = source.train()
    assert source.fresh
    new = tmp_path / "new.npz"
    np.savez(new, **good("private") | {"x_train": X + 1})
    new.rename(path)
    assert not source.fresh
    with pytest.raises(LocalFault, match="was changed since it was checked"):
        source.train()
    # Who reads already goes on with the file that was checked.
    x, _ = read(open_already, contract, [0])
    np.testing.assert_array_equal(x, (X[:1] - np.float32(0.5)) / np.float32(2.0))
    path.unlink()
    assert not source.fresh


def test_a_file_that_is_cut_short_is_an_error_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, contract = tmp_path / "device.npz", models.contract("private")
    np.savez(path, **good("private"))
    monkeypatch.setattr(npz, "SMALL", 0)
    train = NpzSource(path, contract).train()
    os.truncate(path, 150)
    with pytest.raises(LocalFault, match="became shorter"):
        read(train, contract, [4])


def test_files_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "device.npz"
    np.savez(path, **good("private"))
    monkeypatch.setattr(npz, "SMALL", 0)
    source = NpzSource(path, models.contract("private"))
    before = len([*Path("/proc/self/fd").iterdir()])
    parts = [source.train() for _ in range(3)]
    assert len([*Path("/proc/self/fd").iterdir()]) == before + 3
    del parts
    assert len([*Path("/proc/self/fd").iterdir()]) == before

"""A device's data file that a device would refuse is refused before anything starts."""

import math
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.contract import ModelContract, parse_contract
from edge_runtime.sources.npz import NpzSource
from qflare import zoo
from qflare.faults import LocalFault
from qflare.simulate.data.fit import verify_file

MODEL = zoo.load("watch_cnn")
KINDS = len(MODEL.manifest.classes)
PARTS = ("x_train", "y_train", "x_test", "y_test")


@pytest.fixture(scope="module")
def contract() -> ModelContract:
    return parse_contract(MODEL.tflite)


def good() -> dict[str, np.ndarray]:
    x, y = np.ones((4, 128, 6), np.float32), np.arange(4, dtype=np.int32)
    return {"x_train": x, "y_train": y, "x_test": x.copy(), "y_test": y.copy()}


def refusal(path: Path, contract: ModelContract) -> str:
    """What is said; the device itself would refuse the file as well."""
    with pytest.raises(LocalFault):
        NpzSource(path, contract)
    with pytest.raises(LocalFault) as refused:
        verify_file(MODEL.manifest, path)
    assert str(path) in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("array", "where", "value", "words"),
    [
        ("x_train", (3, 17, 2), math.nan, "x_train[3, 17, 2] is nan"),
        ("x_test", (0, 0, 5), -math.inf, "x_test[0, 0, 5] is -inf"),
        ("y_train", 2, KINDS, f"y_train[2] is {KINDS}, watch_cnn knows the classes 0…{KINDS - 1}"),
        ("y_test", 1, -1, "y_test[1] is -1"),
    ],
)
def test_a_value_that_does_not_suit_is_named(
    array: str,
    where: tuple[int, ...],
    value: float,
    words: str,
    tmp_path: Path,
    contract: ModelContract,
) -> None:
    arrays = good()
    arrays[array][where] = value
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    said = refusal(tmp_path / "a.npz", contract)
    assert words in said
    assert "leave" in said


def test_a_value_far_into_a_long_file_is_named(tmp_path: Path, contract: ModelContract) -> None:
    arrays = good()
    arrays["x_train"] = np.ones((2000, 128, 6), np.float32)
    arrays["y_train"] = np.zeros(2000, np.int32)
    arrays["x_train"][1999, 127, 5] = math.inf
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    assert "x_train[1999, 127, 5] is inf" in refusal(tmp_path / "a.npz", contract)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("labels", [3, 5])
def test_each_example_wants_one_label(
    part: str, labels: int, tmp_path: Path, contract: ModelContract
) -> None:
    arrays = good() | {f"y_{part}": np.zeros(labels, np.int32)}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    said = refusal(tmp_path / "a.npz", contract)
    assert f"x_{part} has 4 examples and y_{part} {labels}" in said


@pytest.mark.parametrize("array", PARTS)
def test_an_array_that_is_missing_is_asked_for(
    array: str, tmp_path: Path, contract: ModelContract
) -> None:
    arrays = good()
    del arrays[array]
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    said = refusal(tmp_path / "a.npz", contract)
    assert f"has no {array}" in said
    assert "np.savez" in said
    assert "archive" not in said  # it isn't zipfile that speaks


def test_a_text_file_is_called_none(tmp_path: Path, contract: ModelContract) -> None:
    (tmp_path / "a.npz").write_text("time,x,y\n1,2,3\n")
    said = refusal(tmp_path / "a.npz", contract)
    assert "np.savez" in said
    assert "qflare data import" in said
    assert "zip file" not in said


def test_what_a_device_cannot_read_row_by_row_is_refused(
    tmp_path: Path, contract: ModelContract
) -> None:
    np.savez_compressed(tmp_path / "a.npz", **good())  # type: ignore[arg-type]
    assert "not np.savez_compressed" in refusal(tmp_path / "a.npz", contract)
    columns = {k: np.asfortranarray(v) for k, v in good().items()}
    np.savez(tmp_path / "a.npz", **columns)  # type: ignore[arg-type]
    assert "np.ascontiguousarray" in refusal(tmp_path / "a.npz", contract)


def test_a_good_file_passes(tmp_path: Path, contract: ModelContract) -> None:
    np.savez(tmp_path / "a.npz", **good())  # type: ignore[arg-type]
    verify_file(MODEL.manifest, tmp_path / "a.npz")
    assert NpzSource(tmp_path / "a.npz", contract).count() == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_file_gives_a_fault_or_nothing(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **good())  # type: ignore[arg-type]
    raw = bytearray(path.read_bytes())
    size = len(raw)
    headers = [m.start() for m in re.finditer(rb"PK[\1\3\5]", bytes(raw))]
    near = st.sampled_from(headers).flatmap(lambda at: st.integers(at, min(at + 250, size - 1)))
    for at in data.draw(st.lists(near, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.just(size) | st.integers(0, size))])
    with suppress(LocalFault):
        verify_file(MODEL.manifest, path)

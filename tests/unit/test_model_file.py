"""The model file is read back as written, or refused with a reason, whatever its bytes are."""

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.model import parse_manifest, read_metadata, read_model
from qflare.host.model.file import TFLITE_CEILING, read_model_file
from tests.model_bytes import model_bytes

W0 = np.arange(6, dtype="<f4").tobytes()
W1 = np.full(2, 0.5, "<f4").tobytes()


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "format": "qflare-model/2",
        "name": "tiny",
        "version": 1,
        "task": "classification",
        "loss": "cross_entropy",
        "input": {
            "shape": [3],
            "channels": ["a", "b", "c"],
            "units": ["g", "g", "g"],
            "mean": [0.0, 0.0, 0.0],
            "scale": [1.0, 1.0, 1.0],
        },
        "output": [2],
        "classes": ["no", "yes"],
        "batch": 4,
        "optimiser": {"name": "sgd"},
        "parameters": [
            {"name": "dense/kernel", "shape": [3, 2]},
            {"name": "dense/bias", "shape": [2]},
        ],
        "golden": {
            "formula": "sine/1",
            "learning_rate": 0.1,
            "steps": 1,
            "losses": [0.7],
            "evaluate": {"loss_sum": 1.4, "n": 2.0, "correct": 1.0},
            "tolerance": 1e-4,
        },
        "licence": "Apache-2.0",
        "provenance": "",
        "made_by": "",
    } | changes


def tiny(**changes: Any) -> bytes:
    text = json.dumps(manifest(**changes)).encode()
    return model_bytes({"qflare-model": text, "qflare-w0": W0, "qflare-w1": W1})


def test_what_was_written_is_read() -> None:
    found = read_model(tiny())
    assert found.weights == W0 + W1
    assert found.personal == b""
    assert found.manifest.classes == ["no", "yes"]
    assert (found.manifest.rows, found.manifest.size) == (2, 8)
    assert parse_manifest(found.manifest.to_bytes()) == found.manifest


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "qflare-model/1"}, "format"),
        ({"colour": "red"}, "colour"),
        ({"classes": ["only"], "output": [1]}, "2…1,024 classes"),
        ({"output": [3]}, "one output for each"),
        ({"task": "regression"}, "no classes"),
        ({"task": "autoencoder", "classes": []}, "shape of its input"),
        ({"class_weights": [1.0]}, "one class weight per class"),
        ({"name": "../../etc"}, "name"),
        ({"batch": 0}, "batch"),
        ({"parameters": [{"name": "w", "shape": [1]}] * 2}, "not unique"),
        ({"batch": float("nan")}, "not JSON"),
        ({"name": "a\n"}, "name"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PeerFault, match=says):
        read_model(tiny(**changes))


def test_weights_of_another_size_are_refused() -> None:
    text = json.dumps(manifest()).encode()
    for entries in (
        {"qflare-model": text, "qflare-w0": W0},
        {"qflare-model": text, "qflare-w0": W0, "qflare-w1": W1 + b"\0"},
    ):
        with pytest.raises(PeerFault) as caught:
            read_model(model_bytes(entries))
        assert caught.value.reason is Reason.WRONG_SHAPE


def test_a_model_made_elsewhere_is_told_what_to_do() -> None:
    with pytest.raises(PeerFault, match="qflare model build"):
        read_model(model_bytes({"min_runtime_version": b"1.5.0"}))


def test_two_manifests_in_one_file_are_refused() -> None:
    text = json.dumps(manifest()).encode()
    with pytest.raises(PeerFault, match="two entries"):
        read_model(model_bytes([("qflare-model", text), ("qflare-model", text)]))


def test_a_missing_file_is_named(tmp_path: Any) -> None:
    with pytest.raises(LocalFault, match="absent"):
        read_model_file(tmp_path / "absent.tflite")


def test_what_is_no_model_is_named_with_what_to_do(tmp_path: Any) -> None:
    text, huge = tmp_path / "text.tflite", tmp_path / "huge.tflite"
    text.write_bytes(b"hello\n")
    with huge.open("wb") as sparse:
        sparse.truncate(TFLITE_CEILING + 1)
    with pytest.raises(LocalFault, match=f"not a TFLite model; .*qflare model check {text}$"):
        read_model_file(text)
    for path in (tmp_path, huge):
        with pytest.raises(LocalFault, match=f"{path} is no file of at most 256 MiB; give"):
            read_model_file(path)


@given(st.binary(max_size=200))
def test_garbage_is_only_ever_a_peer_fault(data: bytes) -> None:
    with pytest.raises(PeerFault):
        read_metadata(b"\x10\0\0\0TFL3" + data if len(data) % 2 else data)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(tiny())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        with contextlib.suppress(PeerFault):
            read_model(damaged)

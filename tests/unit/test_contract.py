"""A model is taken only if its graph is what its manifest says; hostile bytes crash nothing."""

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from flatbuffers.table import Table
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import signatures
from edge_runtime.contract import parse_contract
from edge_runtime.signatures import read_signatures, verify_signatures, wanted_signatures
from qflare.faults import PeerFault, Reason
from qflare.host.model import Manifest, parse_manifest
from qflare.names import Digest
from tests import models
from tests.model_bytes import model_bytes


def manifest(name: str, change: Callable[[dict[str, Any]], Any]) -> Manifest:
    says = json.loads(models.contract(name).manifest.to_bytes())
    change(says)
    return parse_manifest(json.dumps(says).encode())


@pytest.mark.parametrize("name", models.NAMES)
def test_a_contract_says_what_the_file_says(name: str) -> None:
    contract = models.contract(name)
    assert contract.name == name
    assert contract.digest == Digest.of(models.tflite(name))
    assert contract.spec.size == contract.manifest.size == models.start(name).size
    assert len(contract.initial_personal) == 4 * contract.personal_size
    assert read_signatures(models.tflite(name)) == wanted_signatures(contract.manifest)


def _swap(says: dict[str, Any]) -> None:
    says["parameters"][0], says["parameters"][1] = says["parameters"][1], says["parameters"][0]


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("classifier", lambda m: m.update(batch=4), "input 'x' of 'train' is float32"),
        ("classifier", lambda m: m.update(noise=0), "input 'r' of 'train' is not wanted"),
        ("classifier", lambda m: m.update(noise=9), "'r' of 'train' is float32.8, 8., want"),
        ("classifier", lambda m: m.update(private=True), "'clip' of 'train' is missing"),
        ("classifier", lambda m: m.update(personal=[]), "'p0' of 'get_weights' is not wanted"),
        ("classifier", lambda m: m["parameters"].pop(), "'w1' of 'get_weights' is not wanted"),
        ("classifier", _swap, "'w0' of 'get_weights'"),
        ("classifier", lambda m: m["input"].update(dtype="int32"), "'x' of 'train' is float32"),
        ("private", lambda m: m.update(private=False), "'clip' of 'train' is not wanted"),
        ("private", lambda m: m.update(features=[6]), "no signature 'features'"),
        ("features", lambda m: m.update(features=None), "'x' of 'train' is float32.8, 5., want"),
        ("regression", lambda m: m.update(output=[3]), "'y' of 'train' is float32.8, 2., want"),
        ("regression", lambda m: m.update(task="autoencoder", output=[6]), "'y' of 'train' is not"),
        (
            "regression",
            lambda m: m.update(task="classification", classes=["a", "b"]),
            "'y' of 'train' is float32.8, 2., want int32.8.",
        ),
        (
            "multilabel",
            lambda m: m.update(task="regression", classes=[], output=[2]),
            "'y' of 'train' is float32.8, 3., want",
        ),
    ],
)
def test_a_graph_that_is_not_the_manifests_is_refused(
    name: str, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    with pytest.raises(PeerFault, match=says) as fault:
        verify_signatures(manifest(name, change), models.tflite(name))
    assert fault.value.reason == Reason.WRONG_SHAPE


def patched(name: str, key: str, change: Callable[[bytearray, Any], None]) -> bytes:
    """The model with the tensor behind an input of `train` altered in place."""
    data = bytearray(models.tflite(name))
    model = Table(data, struct.unpack_from("<I", data)[0])
    subgraphs = signatures._tables(model, 2)
    for at in signatures._tables(model, 7):
        entry = Table(data, at)
        if signatures._string(entry, 2) != "train":
            continue
        tensors = signatures._tables(Table(data, subgraphs[signatures._number(entry, 4)]), 0)
        for item in signatures._tables(entry, 0):
            pair = Table(data, item)
            if signatures._string(pair, 0) == key:
                change(data, Table(data, tensors[signatures._number(pair, 1)]))
    assert bytes(data) != models.tflite(name)
    return bytes(data)


def _no_dimensions(data: bytearray, tensor: Any) -> None:
    struct.pack_into("<I", data, tensor.Vector(tensor.Offset(4)) - 4, 0)


def _one_dimension_unknown(data: bytearray, tensor: Any) -> None:
    struct.pack_into("<i", data, tensor.Vector(tensor.Offset(4)), -1)


def test_an_input_without_dimensions_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On aarch64 LiteRT crashes on it."""
    monkeypatch.setattr("edge_runtime.contract.open_interpreter", lambda _: pytest.fail("opened"))
    for name, key in (("private", "lr"), ("private", "clip"), ("regression", "mu")):
        data = patched(name, key, _no_dimensions)
        with pytest.raises(PeerFault, match=f"'{key}' of 'train' is a scalar"):
            parse_contract(data)


def test_a_batch_that_may_change_is_refused() -> None:
    with pytest.raises(PeerFault, match=r"'m' of 'train' is float32\[-1\], want float32\[8\]"):
        parse_contract(patched("private", "m", _one_dimension_unknown))


def test_a_graph_that_cannot_run_is_refused() -> None:
    """Its manifest and signatures are right; the operators are not."""
    data = models.tflite("private")
    model = Table(data, struct.unpack_from("<I", data)[0])
    code = signatures._tables(model, 1)[0]
    table = Table(data, code)
    broken = bytearray(data)
    at = table.Offset(4 + 2 * 3)  # builtin_code
    assert at
    struct.pack_into("<i", broken, code + at, 255)  # an operator of the future
    with pytest.raises(PeerFault, match="TFLite cannot run the model"):
        parse_contract(bytes(broken))


def test_a_model_of_somebody_else_is_refused() -> None:
    with pytest.raises(PeerFault, match="without QFLARE's manifest"):
        parse_contract(model_bytes({"min_runtime_version": b"1.5.0"}))
    with pytest.raises(PeerFault, match="not a TFLite model"):
        parse_contract(b"no model at all")


@given(st.data())
def test_damaged_signatures_give_peer_faults_and_nothing_else(data: st.DataObject) -> None:
    whole = models.tflite("regression")
    says = _REGRESSION.manifest
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 20)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        verify_signatures(says, bytes(damaged))
    except PeerFault:
        return


_REGRESSION = models.contract("regression")

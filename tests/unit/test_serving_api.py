"""Requests and answers, as bytes and values, with a real model."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.serving.api import (
    JSON,
    RAW,
    Refused,
    infer_answer,
    metadata,
    parse_rows,
    percentile,
    route,
)
from edge_runtime.serving.engine import Engine, open_engine
from edge_runtime.slots import Slots
from qflare.faults import LocalFault
from tests.serving_rig import MODELS, ROOT, put_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    slots = Slots(tmp_path_factory.mktemp("slots"))
    put_model(slots, 1)
    return open_engine(slots.link)


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        (JSON, b"", "not JSON"),
        (JSON, b"[1, 2]", '"inputs"'),
        (JSON, b'{"inputs": [[1,2,3,4,5,6]], "more": 1}', '"inputs"'),
        (JSON, b'{"inputs": []}', "shape"),
        (JSON, b'{"inputs": [[1,2,3]]}', "shape"),
        (JSON, b'{"inputs": [[1,2,3,4,5,6], [1,2]]}', "unequal"),
        (JSON, b'{"inputs": [["a",2,3,4,5,6]]}', "not numbers"),
        (JSON, b'{"inputs": [[1e99,2,3,4,5,6]]}', "finite"),
        (JSON, b'{"inputs": [[null,2,3,4,5,6]]}', "finite"),
        (JSON, b'{"inputs": {"x": 1}}', "not numbers"),
        (JSON, b"[" * 100_000, "not JSON"),
        (RAW, b"", "no rows"),
        (RAW, bytes(23), "whole number of rows"),
        (RAW, np.full(6, np.nan, "<f4").tobytes(), "finite"),
        ("text/html", b"", "Content-Type"),
    ],
)
def test_what_is_wrong_with_a_request(engine: Engine, kind: str, body: bytes, says: str) -> None:
    with pytest.raises(Refused, match="(?i)" + says):
        parse_rows(kind, body, engine)


def test_one_row_may_come_without_its_brackets(engine: Engine) -> None:
    rows = parse_rows("application/json; charset=utf-8", b'{"inputs": [1,2,3,4,5,6]}', engine)
    assert rows.tolist() == [[1, 2, 3, 4, 5, 6]]


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([JSON, RAW, "", "APPLICATION/json;x"]),
    body=st.binary(max_size=100)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=30,
    ).map(lambda tree: json.dumps({"inputs": tree}).encode()),
)
def test_garbage_is_refused_and_nothing_else(engine: Engine, kind: str, body: bytes) -> None:
    with suppress(Refused):
        rows = parse_rows(kind, body, engine)
        assert rows.shape[1:] == (6,)
        assert rows.dtype == np.float32
        assert np.isfinite(rows).all()


def test_the_form_of_the_answer_is_the_request_s_unless_told(engine: Engine) -> None:
    outputs = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], np.float32)
    raw = infer_answer("*/*", RAW, outputs, engine)
    assert (raw.kind, np.frombuffer(raw.body, "<f4").tolist()) == (RAW, outputs.ravel().tolist())
    assert dict(raw.headers)["qflare-shape"] == "2,3"
    told = json.loads(infer_answer(JSON, RAW, outputs, engine).body)
    assert told["model"] == str(engine.slot.model)
    classes = engine.manifest.classes
    assert told["classes"] == [classes[1], classes[0]]
    assert infer_answer(RAW, JSON, outputs, engine).kind == RAW
    assert infer_answer("", JSON, outputs, engine).kind == JSON


def test_metadata_says_what_a_program_must_know(engine: Engine) -> None:
    says = metadata(engine)
    assert says["input"]["units"] == engine.manifest.input.units
    assert says["output_means"]
    assert says["batch"] == engine.batch
    json.dumps(says)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/", 404), ("POST", "/v1/status", 405), ("GET", "/v1/infer", 405), ("", "", 404)],
)
def test_there_are_three_paths(method: str, target: str, status: int) -> None:
    with pytest.raises(Refused) as caught:
        route(method, target)
    assert caught.value.status == status
    assert route("GET", "/v1/status?x=1") == "/v1/status"


def test_rows_are_scaled_as_the_manifest_says(engine: Engine) -> None:
    rows = np.random.default_rng(1).normal(0, 1, (5, 6)).astype(np.float32)
    kept = rows.copy()
    whole = engine.run([rows])
    parts = engine.run([rows[:2], rows[2:]])
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_array_equal(rows, kept)  # the caller's
    assert len(engine.run([])) == 0


def test_a_slot_whose_model_is_none_is_a_fault(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    with pytest.raises(LocalFault, match="wait until"):
        open_engine(slots.link)
    model, _ = put_model(slots, 1)
    (slots.link.resolve() / "manifest.json").write_text("{}")
    with pytest.raises(LocalFault, match="make it again"):
        open_engine(slots.link)
    assert model


@pytest.mark.parametrize("name", ["regression", "autoencoder", "multilabel", "features", "private"])
def test_every_form_of_model_answers(tmp_path: Path, name: str) -> None:
    slots = Slots(tmp_path)
    put_model(slots, 1, MODELS / f"{name}.tflite")
    engine = open_engine(slots.link)
    rows = parse_rows(RAW, np.ones((3, 6), "<f4").tobytes(), engine)
    outputs = engine.run([rows])
    assert outputs.shape == (3, *engine.manifest.output)
    answer = json.loads(infer_answer("", JSON, outputs, engine).body)
    assert ("classes" in answer) == (engine.manifest.task == "classification")
    assert metadata(engine)["task"] == engine.manifest.task


def test_the_zoo_answers(tmp_path: Path) -> None:
    for number, path in enumerate(sorted((ROOT / "qflare/zoo").rglob("*.tflite"))):
        slots = Slots(tmp_path / str(number))
        put_model(slots, 1, path)
        engine = open_engine(slots.link)
        rows = np.zeros((2, *engine.row_shape), engine.dtype)
        assert np.isfinite(engine.run([rows])).all()


def test_percentiles() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([float(i) for i in range(100)], 0.99) == 99.0

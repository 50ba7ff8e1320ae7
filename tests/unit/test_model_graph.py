"""Any TFLite file is read as it is, and anything else refused, whatever the bytes are."""

import contextlib
import struct
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.models.flatbuffer import Bytes
from edge_runtime.models.graph import Graph, read_graph
from edge_runtime.models.operators import LITERT_2_3, NAMES, TFLITE_RUNTIME_2_14, name_of
from qflare.faults import PeerFault, Reason
from tests import models
from tests.models import foreign


def graph_of(name: str) -> Graph:
    return read_graph(memoryview(foreign.path(name).read_bytes()))


def test_a_trainable_model_is_read_as_it_is() -> None:
    graph = read_graph(memoryview(models.tflite("classifier")))
    signatures = {s.key: s for s in graph.signatures}
    assert set(signatures) == {
        *("evaluate", "get_weights", "infer", "reset", "set_weights", "train"),
    }
    train = signatures["train"]
    assert train.inputs["x"].dtype == "float32"
    assert train.inputs["x"].shape[1:] == (models.INPUTS,)
    assert train.inputs["y"].dtype == "int32"
    assert (train.outputs["loss"].shape, train.outputs["loss"].size) == ((1,), 4)
    counted = Counter(o.code.name for s in graph.subgraphs for o in s.operators)
    assert counted["VAR_HANDLE"] > 0
    names = {o.variable for s in graph.subgraphs for o in s.operators}
    assert len(names - {None}) == len([o for o in graph.subgraphs[-1].operators if o.variable])
    once = [o.calls for s in graph.subgraphs for o in s.operators if o.code.name == "CALL_ONCE"]
    assert set(once) == {(len(graph.subgraphs) - 1,)}


def test_metadata_is_where_the_model_file_says() -> None:
    data = models.tflite("classifier")
    graph = read_graph(memoryview(data))
    span = graph.buffers[graph.metadata["qflare-model"]]
    assert data[span.start : span.start + 1] == b"{"
    assert b"qflare-model/2" in data[span.start : span.start + span.count]


def test_custom_and_flex_operators_keep_their_names() -> None:
    assert [c.name for c in graph_of("flex_operator").codes if c.custom] == ["FlexMatrixInverse"]
    assert [c.name for c in graph_of("custom_operator").codes if c.custom] == ["Digamma"]


def test_versions_are_read() -> None:
    assert {c.version for c in graph_of("newer_operator").codes} == {99}
    assert max(c.version for c in graph_of("no_signature").codes) < 15


def test_quantised_tensors_are_known() -> None:
    tensors = graph_of("quantised").subgraphs[0].tensors
    assert {t.dtype for t in tensors} >= {"int8", "int32"}
    assert any(t.quantised for t in tensors)
    assert not any(t.quantised for t in graph_of("no_signature").subgraphs[0].tensors)


def test_scalars_have_no_shape() -> None:
    (train,) = (s for s in graph_of("scalar_input").signatures if s.key == "train")
    assert train.inputs["lr"].shape == ()
    assert train.inputs["lr"].size == 4


@pytest.mark.parametrize(
    "data", [b"", b"TFL3", b"\0" * 7, b"\x10\0\0\0TFL3", b"PK\3\4" + b"\0" * 99]
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(PeerFault) as caught:
        read_graph(memoryview(data))
    assert caught.value.reason is Reason.MALFORMED


WHOLE = {
    "classifier": models.tflite("classifier"),
    "scalar_input": foreign.path("scalar_input").read_bytes(),
    "quantised": foreign.path("quantised").read_bytes(),
    "flex_operator": foreign.path("flex_operator").read_bytes(),
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_damaged_file_is_read_or_refused(name: str, data: st.DataObject) -> None:
    whole = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 4))
        whole[at : at + 4] = data.draw(
            st.one_of(
                st.binary(min_size=4, max_size=4),
                st.integers(-64, 64).map(lambda i: struct.pack("<i", i)),
                st.sampled_from([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"]),
            )
        )
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        with contextlib.suppress(PeerFault):
            read_graph(memoryview(damaged))


def test_every_cut_is_read_or_refused() -> None:
    whole = WHOLE["scalar_input"]
    refused = 0
    for length in range(0, len(whole), 7):
        try:
            read_graph(memoryview(whole[:length]))
        except PeerFault:
            refused += 1
    assert refused > len(whole) // 7 * 0.5


def test_a_small_file_that_stands_for_a_large_tree_is_refused_soon() -> None:
    # The model lists one subgraph 50,000 times, which lists one tensor 50,000 times.
    count = 50_000
    data = bytearray(struct.pack("<I4s", 20, b"TFL3"))
    data += struct.pack("<HHHHHH", 10, 8, 0, 0, 4, 0)  # the model's field 2 is at 4
    data += struct.pack("<iI", 12, 4)
    data += _same(count, 12)
    data += struct.pack("<HHHxx", 6, 8, 4)  # the subgraph's field 0 is at 4
    data += struct.pack("<iI", 8, 4)
    data += _same(count, 8)
    data += struct.pack("<HHi", 4, 4, 4)  # a tensor that says nothing
    began = time.monotonic()
    with pytest.raises(PeerFault) as caught:
        read_graph(memoryview(bytes(data)))
    assert time.monotonic() - began < 20
    assert caught.value.reason is Reason.TOO_LARGE


def _same(count: int, after: int) -> bytes:
    """A list of so many offsets to what begins so many bytes after its end."""
    return struct.pack(
        f"<{count + 1}I", count, *(4 * (count - i) + after - 4 for i in range(count))
    )


def test_the_budget_is_kept() -> None:
    with pytest.raises(PeerFault) as caught:
        Bytes(memoryview(b"\0" * 64), budget=3).spend(4)
    assert caught.value.reason is Reason.TOO_LARGE


def test_names_of_operators_are_those_of_the_schema() -> None:
    assert (name_of(0), name_of(9), name_of(32), name_of(129), name_of(142)) == (
        "ADD",
        "FULLY_CONNECTED",
        "CUSTOM",
        "CALL_ONCE",
        "VAR_HANDLE",
    )
    assert name_of(100_000) == "OPERATOR_100000"
    assert len(set(NAMES)) == len(NAMES)
    assert all(TFLITE_RUNTIME_2_14[name] <= LITERT_2_3[name] for name in NAMES)


def test_the_foreign_files_are_small() -> None:
    for name in foreign.NAMES:
        assert foreign.path(name).stat().st_size < 50_000
    assert {p.stem for p in Path(foreign.__file__).parent.glob("*.tflite")} == set(foreign.NAMES)

"""What `inspect` and `diff` say is true of files made here and elsewhere."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.models import comparison, facts, inspection, source, text
from edge_runtime.models.command import add_parser
from edge_runtime.models.graph import read_graph
from qflare.host.model import read_model
from tests import models
from tests.models import foreign
from tests.models.altered import replaced


def view(data: bytes) -> memoryview:
    return memoryview(data)


def inspected(name: str) -> dict[str, Any]:
    data = foreign.path(name).read_bytes() if name in foreign.NAMES else models.tflite(name)
    report = inspection.inspect(name, view(data))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    return report


def model(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="qflare")
    add_parser(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["model", *words])
    return int(arguments.run(arguments))


@pytest.mark.parametrize("name", [*models.NAMES, *foreign.NAMES])
def test_every_byte_is_somewhere(name: str) -> None:
    report = inspected(name)
    assert sum(report["sizes"].values()) == report["bytes"]
    assert all(len(line) <= text.WIDTH for line in inspection.describe(report))


@pytest.mark.parametrize("name", models.NAMES)
def test_parameters_are_the_manifests(name: str) -> None:
    report = inspected(name)
    data = read_model(models.tflite(name))
    assert sum(p["scalars"] for p in report["parameters"]) == (
        data.manifest.size + data.manifest.personal_size
    )
    assert sum(p["share"] for p in report["parameters"]) == pytest.approx(1)
    assert report["sizes"]["parameters"] == len(data.weights) + len(data.personal)
    assert report["manifest_fault"] is None
    assert all(v["initialised"] for v in report["variables"])
    assert [s["name"] for s in report["signatures"]][:3] == ["train", "evaluate", "infer"]


def test_a_file_made_elsewhere_is_shown_without_a_manifest() -> None:
    report = inspected("scalar_input")
    assert report["manifest"] is None
    assert "qflare model build" in report["manifest_fault"]
    assert report["variables"] == [{"name": "Variable", "shape": [3, 1], "initialised": True}]
    said = "\n".join(inspection.describe(report))
    assert "lr float32[]" in said
    assert inspected("uninitialised")["variables"][0]["initialised"] is False


def test_a_file_without_signatures_shows_its_first_subgraph() -> None:
    (only,) = inspected("no_signature")["signatures"]
    assert only["name"] is None
    assert [t["shape"] for t in only["inputs"]] == [[1, 4]]
    assert only["operators"] == {"FULLY_CONNECTED": 3}


def test_an_invalid_manifest_is_shown_as_such() -> None:
    damaged = replaced("classifier", b'"batch":8', b'"batch":0')
    report = inspection.inspect("damaged", view(damaged))
    assert report["manifest_fault"].startswith("invalid: manifest batch")


def test_working_memory_is_what_is_alive_at_once() -> None:
    graph = read_graph(view(foreign.path("no_signature").read_bytes()))
    # Four values in, then eight and eight: 64 bytes each as aligned, and the input stays.
    assert facts.working_memory(graph, 0) == facts.WorkingMemory(192, 0)


def test_a_quantised_model_is_the_sum_of_its_int8_tensors() -> None:
    graph = read_graph(view(foreign.path("quantised").read_bytes()))
    assert {t.size for t in graph.subgraphs[0].tensors if t.shape == (1, 8, 8, 1)} == {64}


def test_a_file_is_the_same_as_itself(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(Path(models.__file__).parent / "classifier.tflite")
    assert model("diff", path, path) == 0
    assert "byte for byte" in capsys.readouterr().out


def compared(a: bytes, b: bytes) -> dict[str, Any]:
    report = comparison.compare(("a", "b"), (view(a), view(b)))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert all(len(line) <= text.WIDTH for line in comparison.describe(report))
    return report


def test_initial_weights_are_compared_by_value() -> None:
    data = models.tflite("regression")
    found = read_model(data)
    first = found.weights[: 4 * np.prod(found.manifest.parameters[0].shape)]
    moved = (np.frombuffer(first, "<f4") + np.float32(0.25)).tobytes()
    report = compared(data, data.replace(first, moved))
    changes = {p["name"]: p["max_difference"] for p in report["parameters"]}
    assert changes.pop(found.manifest.parameters[0].name) == pytest.approx(0.25, abs=1e-6)
    assert set(changes.values()) == {0.0}
    assert report["keeps_weights"] == {"verdict": "yes", "why": []}


def test_other_shapes_cannot_keep_the_weights() -> None:
    report = compared(models.tflite("classifier"), models.tflite("regression"))
    assert report["keeps_weights"]["verdict"] == "no"
    assert {p["change"] for p in report["parameters"]} >= {"shape"}
    assert {c["field"] for c in report["manifest"]} >= {"task", "output", "classes"}
    (train,) = (s for s in report["signatures"] if s["name"] == "train")
    assert {t["name"] for t in train["tensors"]} == {"r", "y"}


def test_other_names_or_meanings_keep_the_weights_with_care() -> None:
    data = models.tflite("regression")
    name = read_model(data).manifest.parameters[0].name.encode()
    renamed = replaced("regression", name, b"x" * len(name))
    assert compared(data, renamed)["keeps_weights"]["verdict"] == "with care"
    scaled = replaced("regression", b'"mean":[0.5', b'"mean":[0.7')
    keeps = compared(data, scaled)["keeps_weights"]
    assert keeps["verdict"] == "with care"
    assert "mean" in keeps["why"][0]


def test_files_made_elsewhere_can_be_compared() -> None:
    quantised, plain = (foreign.path(name).read_bytes() for name in ("quantised", "no_signature"))
    report = compared(quantised, plain)
    assert report["keeps_weights"]["verdict"] == "unknown"
    assert {s["change"] for s in report["signatures"]} == {"removed"}
    assert any(o["name"] == "CONV_2D" for o in report["operators"])


@pytest.mark.parametrize("verb", ["inspect", "diff", "bench"])
@pytest.mark.parametrize("kind", ["absent", "folder", "empty", "text", "cut", "huge"])
def test_what_cannot_be_read_ends_with_2(
    verb: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.tflite"
    if kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as sparse:
            sparse.truncate(source.SIZE_MAX + 1)
    elif kind != "absent":
        content = {"empty": b"", "text": b"not a model\n", "cut": models.tflite("private")[:9999]}
        path.write_bytes(content[kind])
    good = str(foreign.path("quantised"))
    assert model(verb, *([good] if verb == "diff" else []), str(path)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(path) in captured.err
    assert re.search(r"; give (the path of )?a \.tflite file", captured.err), "what to do next"
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "words", [["--help"], ["build", "--help"], ["inspect", "--help"], ["diff", "--help"]]
)
def test_help_is_there(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        model(*words)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "usage:" in said
    assert all(len(line) <= 100 for line in said.splitlines())


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (28_380, "28.4 kB"),
        (999_800, "1 MB"),
        (3e8, "300 MB"),
    ],
)
def test_sizes_are_short(count: float, said: str) -> None:
    assert text.size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (37e-6, "37 µs"),
        (2.647e-3, "2.65 ms"),
        (0.5, "500 ms"),
        (1.5, "1.5 s"),
        (150, "2 min 30 s"),
        (7320, "2 h 02 min"),
    ],
)
def test_times_are_short(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said


def test_a_table_gives_way_in_its_first_column() -> None:
    lines = text.table([("x" * 100, "12"), ("y", "3")], right=(1,))
    assert max(map(len, lines)) == text.WIDTH
    assert lines[1].endswith(" 3")

"""`qflare model bench` says what was measured, what follows from it, and what is a guess."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from edge_runtime.models import benching, costs, text, timing
from edge_runtime.models.child import Limits
from edge_runtime.models.command import add_parser
from edge_runtime.models.source import open_model
from qflare.compression import CODECS
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault
from qflare.host.boards import estimated
from qflare.host.model import read_model
from tests import models
from tests.models import foreign
from tests.models.altered import replaced

FOLDER = Path(models.__file__).parent
LOAD = benching.Load(examples=20, epochs=3, validation=9)


def bench(path: Path) -> dict[str, Any]:
    report = benching.bench(path, open_model(path), Limits(), LOAD, repeat=5, budget=0.5)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    for sources in (False, True):
        lines = benching.describe(report, sources)[1:]
        assert all(len(line) <= text.WIDTH for line in lines)
    return report


@pytest.mark.parametrize("name", ["classifier", "features", "private"])
def test_a_round_follows_from_what_was_measured(name: str) -> None:
    report = bench(FOLDER / f"{name}.tflite")
    manifest = read_model(models.tflite(name)).manifest
    calls = report["measured"]["1"]
    steps = -(-20 // manifest.batch)
    assert report["round"]["steps"] == 3 * steps
    seconds = report["round"]["seconds"]
    assert seconds["training"] == pytest.approx(3 * steps * calls["train"]["median"])
    tests = -(-9 // manifest.batch)
    assert seconds["validation"] == pytest.approx(2 * tests * calls["evaluate"]["median"])
    assert seconds["total"] == pytest.approx(sum(v for k, v in seconds.items() if k != "total"))
    assert (report["round"]["features_once"] > 0) is (name == "features")
    assert set(report["measured"]) == {"1", "2"}
    assert 0 < calls["train"]["best"] <= calls["train"]["median"] <= calls["train"]["p90"]
    assert calls["start"]["seconds"] > 0
    assert 20e6 < calls["memory"]["anonymous"] + 15e6 < calls["memory"]["resident"] * 2


def test_boards_are_estimates_that_say_so() -> None:
    report = bench(FOLDER / "regression.tflite")
    found = {board["board"]: board for board in report["boards"]}
    total, speed = report["round"]["seconds"]["total"], report["machine"]["speed"]
    for board, cost in estimated():
        shown = found[board.name]
        assert shown["how"] == "estimated"
        assert shown["seconds"] == pytest.approx(total * speed / cost.speed)
        assert shown["low"] < shown["seconds"] < shown["high"]
        assert shown["fits"] is True
    said = "\n".join(benching.describe(report))
    assert "estimated for boards" in said
    assert "Nothing was measured on a board" in said
    assert (
        report["bytes"]["down"]["weights"]
        == 4 * read_model(models.tflite("regression")).manifest.size
    )


def test_a_model_made_elsewhere_is_timed_as_it_is() -> None:
    report = bench(foreign.path("quantised"))
    assert report["trains"] is False
    assert report["measured"]["1"]["run serving_default"]["median"] > 0
    assert "boards" not in report
    nameless = bench(foreign.path("no_signature"))
    assert nameless["measured"]["2"]["run"]["repetitions"] == 5


def test_what_cannot_run_is_refused_with_a_reason() -> None:
    with pytest.raises(LocalFault, match="Select TensorFlow op"):
        bench(foreign.path("flex_operator"))
    newer = foreign.path("newer_operator")
    with pytest.raises(LocalFault, match=f"qflare model check {newer}$"):
        bench(newer)


def test_a_model_that_devices_refuse_is_refused_with_their_reason(tmp_path: Path) -> None:
    path = tmp_path / "altered.tflite"
    path.write_bytes(replaced("classifier", b"qflare-w1", b"qflare-x1"))
    with pytest.raises(LocalFault, match="bytes of weights"):
        bench(path)


def test_bytes_are_those_of_the_real_encoders() -> None:
    found = {wire.codec: wire for wire in costs.updates(7_095, 7)}
    assert set(found) == set(CODECS)
    assert found["fixed32"].encoded == 4 * 7_095
    assert found["q8"].encoded == CODECS["q8"].body_length(7_095)
    fixed = DEFAULT.signature_length + DEFAULT.seal_overhead
    for wire in found.values():
        assert wire.exact
        assert wire.encoded + fixed < wire.sealed < (wire.encoded + 256) * 1.12 + fixed + 1024


def test_large_updates_are_scaled_up_from_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = {wire.codec: wire for wire in costs.updates(300_000, 7)}
    monkeypatch.setattr(costs, "ENCODED_MAX", 100_000)
    for wire in costs.updates(300_000, 7):
        assert not wire.exact
        assert wire.encoded == pytest.approx(exact[wire.codec].encoded, rel=0.01)
        assert wire.sealed == pytest.approx(exact[wire.codec].sealed, rel=0.03)


def test_a_busy_machine_is_mentioned() -> None:
    report = bench(FOLDER / "regression.tflite")
    for busy in (False, True):
        said = "\n".join(benching.describe(report | {"busy": busy}))
        assert ("busy with other work" in said) is busy


def test_a_machine_has_a_speed() -> None:
    found = timing.speed()
    assert 0.001 < found["speed"] < 100
    assert set(found["seconds"]) == {"products", "functions", "interpreter"}


def test_a_board_with_too_little_memory_is_named() -> None:
    board, cost = estimated()[0]
    board = structs.replace(board, memory=structs.replace(board.memory, training_mib=1))
    measured = {"train": {"median": 1e-3}, "memory": {"resident": 2**25, "peak": 2**25}}
    round_ = {"seconds": {"total": 1.0}, "features_once": 0.0}
    assert benching._board(board, cost, round_, measured, 1.0)["fits"] is False


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="qflare")
    add_parser(parser.add_subparsers(required=True))
    words = ["model", "bench", str(FOLDER / "autoencoder.tflite"), "--repeat", "3", "--json"]
    arguments = parser.parse_args([*words, "--epochs", "1", "--examples", "8"])
    assert arguments.run(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["round"]["steps"] == -(
        -8 // read_model(models.tflite("autoencoder")).manifest.batch
    )
    for wrong in (["--examples", "0"], ["--epochs", "x"]):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([*words, *wrong])
        assert ended.value.code == 2

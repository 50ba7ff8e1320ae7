"""`qflare model check` finds what is wrong, and survives whatever a model does."""

import argparse
import json
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.models import checking, text, trials
from edge_runtime.models.child import Limits, run_child
from edge_runtime.models.command import add_parser
from edge_runtime.models.source import open_model
from edge_runtime.models.steps import Result, Trouble
from edge_runtime.models.trials import Trials
from edge_runtime.trainer import Plan, Trainer
from qflare.faults import LocalFault
from qflare.host.boards import every
from tests import models
from tests.models import foreign
from tests.models.altered import replaced

FOLDER = Path(models.__file__).parent


def check(path: Path, *, run: bool = False, limits: Limits | None = None) -> dict[str, Any]:
    report = checking.check(path, open_model(path), limits or Limits(), run=run)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert all(len(line) <= text.WIDTH for line in checking.describe(report)[1:])
    return report


def codes(report: dict[str, Any]) -> dict[str, str]:
    return {finding["code"]: finding["severity"] for finding in report["findings"]}


def model(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="qflare")
    add_parser(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["model", *words])
    return int(arguments.run(arguments))


@pytest.mark.parametrize("name", models.NAMES)
def test_good_models_pass_every_trial(name: str) -> None:
    report = check(FOLDER / f"{name}.tflite", run=True)
    assert report["ok"]
    assert not {"error", "warning"} & set(codes(report).values())
    assert list(report["trials"]) == [
        *("open", "golden", "round-trip", "learning", "reset", "evaluate", "padding"),
        *("inference", "repeat", "divergence", "memory"),
    ]
    learning = report["trials"]["learning"]
    assert learning["last"] < learning["first"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("custom_operator", {"no-manifest", "custom-operator", "no-variables"}),
        ("flex_operator", {"no-manifest", "flex-operator", "no-variables"}),
        ("newer_operator", {"no-manifest", "unknown-operator", "no-variables"}),
        ("no_signature", {"no-manifest", "no-variables"}),
        ("quantised", {"no-manifest", "no-variables"}),
        ("scalar_input", {"no-manifest", "scalar-input"}),
        ("uninitialised", {"no-manifest", "scalar-input", "uninitialised"}),
    ],
)
def test_files_made_elsewhere_are_judged(name: str, expected: set[str]) -> None:
    report = check(foreign.path(name))
    assert set(codes(report)) == expected
    assert not report["ok"]
    severities = [finding["severity"] for finding in report["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


@pytest.mark.parametrize(
    ("name", "ran"),
    [
        ("no_signature", {"open", "run"}),
        ("quantised", {"open", "run serving_default"}),
        ("scalar_input", {"open", "run infer", "run train"}),
    ],
)
def test_files_made_elsewhere_are_run_once(name: str, ran: set[str]) -> None:
    if name == "scalar_input" and platform.machine() == "aarch64":
        pytest.skip("this is what crashes there")
    report = check(foreign.path(name), run=True)
    assert set(report["trials"]) == ran
    assert not any("trouble" in result for result in report["trials"].values())


def altered(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "altered.tflite"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        (b'"batch":8', b'"batch":0', "bad-manifest", "batch"),
        (b'"batch":8', b'"batch":9', "signature-input", "want float32[9"),
        (b"qflare-w1", b"qflare-x1", "no-weights", "bytes of weights"),
        (b"reset\0", b"resex\0", "signature-missing", "reset"),
        (b"qflare-model", b"qflare-xodel", "no-manifest", "wasn't made"),
    ],
)
def test_what_a_manifest_promises_is_held_against_the_graph(
    old: bytes, new: bytes, code: str, says: str, tmp_path: Path
) -> None:
    report = check(altered(tmp_path, replaced("classifier", old, new)))
    assert codes(report)[code] == "error"
    assert any(says in finding["what"] for finding in report["findings"])


def test_what_is_no_model_is_a_finding(tmp_path: Path) -> None:
    for data in (b"", b"hello", models.tflite("classifier")[:5000]):
        report = check(altered(tmp_path, data), run=True)
        assert codes(report) == {"not-tflite": "error"}
        assert report["trials"] == {}


def test_other_golden_losses_are_found(tmp_path: Path) -> None:
    data = models.tflite("classifier")
    match = re.search(rb'"losses":\[(\d)', data)
    assert match
    digit = b"9" if match[1] != b"9" else b"8"
    wrong = data[: match.start(1)] + digit + data[match.end(1) :]
    report = check(altered(tmp_path, wrong), run=True)
    assert codes(report)["golden"] == "error"


# Models whose signatures do something wrong: one call is replaced by another.


def broken(name: str, call: str, change: Callable[..., dict[str, Any]]) -> Trials:
    tried = Trials(models.tflite(name))
    right = tried._engine.call[call]
    tried._engine.call[call] = lambda **inputs: change(right, **inputs)
    return tried


def altering(output: str, change: Callable[[Any], Any]) -> Callable[..., dict[str, Any]]:
    def altered(right: Any, **inputs: Any) -> dict[str, Any]:
        found = dict(right(**inputs))
        return found | {output: change(found[output])}

    return altered


def _unmasked(right: Any, **inputs: Any) -> dict[str, Any]:
    return dict(right(**(inputs | {"m": np.ones_like(inputs["m"])})))


def _frozen(_: Any, **inputs: Any) -> dict[str, Any]:
    return {"loss": np.ones(1, np.float32)}


def _no_reset(*_: Any, **__: Any) -> dict[str, Any]:
    return {"ok": np.ones(1, np.float32)}


def _uphill(right: Any, **inputs: Any) -> dict[str, Any]:
    return dict(right(**(inputs | {"lr": -inputs["lr"]})))


@pytest.mark.parametrize(
    ("trial", "call", "change", "code"),
    [
        ("round_trip", "get_weights", altering("w0", lambda w: w * 2), "round-trip"),
        ("learning", "train", _frozen, "not-trained"),
        ("learning", "train", _uphill, "not-learning"),
        ("reset", "reset", _no_reset, "reset"),
        ("evaluate", "evaluate", altering("examples", lambda n: n + 1), "evaluate"),
        ("evaluate", "evaluate", altering("correct", lambda n: n * 0 + 9), "evaluate"),
        ("evaluate", "evaluate", altering("correct", lambda n: n * 0), "evaluate"),
        ("evaluate", "evaluate", altering("loss_sum", lambda n: n * np.nan), "evaluate"),
        ("evaluate", "evaluate", altering("loss_sum", lambda n: n + 1), "evaluate"),
        ("padding", "train", _unmasked, "padding"),
        ("inference", "infer", altering("output", lambda p: p * 2), "inference"),
        ("inference", "infer", altering("output", lambda p: p * np.nan), "inference"),
    ],
)
def test_each_trial_finds_its_fault(
    trial: str, call: str, change: Callable[..., dict[str, Any]], code: str
) -> None:
    tried = broken("classifier", call, change)
    with pytest.raises(Trouble) as caught:
        getattr(tried, trial)()
    assert caught.value.code == code
    assert code in checking.CODES


def test_randomness_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Trainer.train
    seeds = iter(range(100))

    def random(self: Trainer, weights: Any, examples: Any, plan: Plan, **more: Any) -> Any:
        other = Plan(plan.learning_rate, plan.epochs, next(seeds))
        return right(self, weights, examples, other, **more)

    monkeypatch.setattr(Trainer, "train", random)
    with pytest.raises(Trouble, match="one seed"):
        Trials(models.tflite("classifier")).repeat()


def test_training_that_cannot_diverge_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_ABSURD_RATE", 1e-3)
    with pytest.raises(Trouble) as caught:
        Trials(models.tflite("classifier")).divergence()
    assert caught.value.code == "divergence"


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put an interpreter of this Python text in place of the real one, for child processes."""

    def put(body: str) -> None:
        package = tmp_path / "stub" / "ai_edge_litert"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "interpreter.py").write_text(
            "import os, signal, time\n"
            "class Interpreter:\n"
            "    def __init__(self, model_content, num_threads):\n"
            "        if not model_content:\n"
            "            raise ValueError('empty')\n"
            f"        {body}\n"
        )
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'stub'}:{Path.cwd()}")

    return put


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crash", "SIGSEGV"),
        ("os.abort()", "crash", "SIGABRT"),
        ("os._exit(3)", "crash", "code 3"),
        ("raise MemoryError", "too-much-memory", "MiB"),
        ("bytearray(2**40)", "too-much-memory", "MiB"),
        ("time.sleep(60)", "too-slow", "longer than 3 s"),
        ("raise RuntimeError('no such kernel')", "refused", "no such kernel"),
    ],
)
def test_whatever_happens_to_the_interpreter_is_a_finding(
    body: str, code: str, says: str, interpreter: Callable[[str], None]
) -> None:
    interpreter(body)
    began = time.monotonic()
    report = check(
        FOLDER / "regression.tflite", run=True, limits=Limits(3.0 if "sleep" in body else 60.0)
    )
    assert time.monotonic() - began < 30
    assert codes(report)[code] == "error"
    (finding,) = (f for f in report["findings"] if f["code"] == code)
    assert says in finding["what"]
    assert finding["what"].startswith("open: ")


def test_a_missing_interpreter_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert", "tflite_runtime"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('gone')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    with pytest.raises(LocalFault, match="pip install"):
        run_child("check", FOLDER / "regression.tflite", {}, Limits())


def test_a_real_interpreter_that_hits_its_limit_of_memory_is_a_finding() -> None:
    """As which one is the interpreter's: by where it is refused memory, it says so or just dies."""
    report = check(FOLDER / "regression.tflite", run=True, limits=Limits(memory=1))
    found = codes(report)
    assert "error" in found.values(), report
    assert found.keys() <= {"too-much-memory", "refused", "crash"}, report


def test_small_boards_are_named() -> None:
    boards = every()
    smallest = min(boards, key=lambda board: board.memory_for_training)
    (finding,) = checking._memory(smallest.memory_for_training + 1, boards)
    assert (finding.code, finding.severity) == ("board-memory", "warning")
    assert smallest.title in finding.what
    assert checking._memory(1, boards) == []


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(FOLDER / "regression.tflite")
    assert model("check", good, "--static", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert model("check", str(foreign.path("quantised")), "--static") == 1
    assert model("check", str(tmp_path / "absent.tflite")) == 2
    assert "absent" in capsys.readouterr().err
    for wrong in (["--seconds", "0"], ["--memory", "x"]):
        with pytest.raises(SystemExit) as ended:
            model("check", good, *wrong)
        assert ended.value.code == 2


def test_strict_takes_warnings_as_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Result = {"file": "", "bytes": 0, "ok": True, "trials": {}}
    found["findings"] = [{"severity": "warning", "code": "c", "what": "w", "why": "y", "todo": "t"}]
    monkeypatch.setattr(checking, "check", lambda *_, **__: found)
    good = str(FOLDER / "regression.tflite")
    assert model("check", good) == 0
    assert model("check", good, "--strict") == 1

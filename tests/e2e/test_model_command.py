"""`qflare model` as a person uses it: from the shell, on good, foreign and broken files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import models
from tests.models import foreign

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FOLDER = Path(models.__file__).parent
GOOD = str(FOLDER / "classifier.tflite")


def qflare(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qflare.cli", "model", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["inspect", GOOD], 0),
        (["check", GOOD], 0),
        (["bench", GOOD, "--repeat", "3"], 0),
        (["diff", GOOD, GOOD], 0),
        (["diff", GOOD, str(FOLDER / "features.tflite")], 1),
        (["check", str(foreign.path("scalar_input")), "--static"], 1),
        (["check", __file__], 1),
        (["inspect", __file__], 2),
        (["bench", "absent.tflite"], 2),
        (["frobnicate"], 2),
    ],
)
def test_every_command_ends_with_its_code(words: list[str], code: int) -> None:
    ended = qflare(*words, TERM="xterm-256color", FORCE_COLOR="1")
    assert ended.returncode == code, ended.stderr
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert (ended.stdout == "") is (code == 2)
    if code == 0:
        assert ended.stderr == ""
    assert all(len(line) <= 80 for line in ended.stdout.splitlines() if "/" not in line)


@pytest.mark.parametrize("verb", ["inspect", "check", "bench"])
def test_json_is_all_that_is_printed(verb: str) -> None:
    more = ["--repeat", "2"] if verb == "bench" else []
    found = json.loads(qflare(verb, GOOD, "--json", *more).stdout)
    assert found["file"] == GOOD


def test_a_terminal_that_knows_no_unicode_is_served() -> None:
    ended = qflare("inspect", GOOD, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert ended.returncode == 0
    assert "classifier" in ended.stdout


def test_help_names_every_command() -> None:
    said = qflare("--help").stdout
    for verb in ("check", "inspect", "bench", "diff"):
        assert f" {verb} " in said


def test_a_reader_that_stops_reading_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "qflare.cli", "model", "inspect", GOOD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.tflite"
    os.mkfifo(pipe)
    ended = qflare("inspect", str(pipe))
    assert ended.returncode == 2
    assert "regular file" in ended.stderr


def test_interrupting_it_ends_the_models_process(tmp_path: Path) -> None:
    stub = tmp_path / "ai_edge_litert"
    stub.mkdir()
    (stub / "__init__.py").write_text("")
    (stub / "interpreter.py").write_text(
        "import time\n"
        "class Interpreter:\n"
        "    def __init__(self, model_content, num_threads):\n"
        "        if not model_content:\n"
        "            raise ValueError('empty')\n"
        "        time.sleep(100)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "qflare.cli", "model", "check", GOOD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"},
    )
    try:
        children = _wait_for_child(process.pid)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
    finally:
        process.kill()


def _wait_for_child(pid: int) -> list[psutil.Process]:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if children := psutil.Process(pid).children():
            time.sleep(1.0)
            return children
        time.sleep(0.05)
    raise AssertionError("no process of the model's own was started")

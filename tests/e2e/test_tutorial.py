"""docs/tutorial.md does what it says: its files are written and its commands run, in order."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from qflare import zoo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("e2e"),
    pytest.mark.skipif(
        find_spec("seglearn") is None,
        reason="seglearn is not installed (pip install 'qflare[demo]')",
    ),
]
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def steps() -> list[tuple[str, str]]:
    """What to do, in order: ("sh", command) and (file name, its text)."""
    found: list[tuple[str, str]] = []
    for file, language, text in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")):
        if file:
            found.append((file, text))
        elif language == "sh":
            commands = text.replace("\\\n", " ").strip().splitlines()
            found += [("sh", " ".join(command.split())) for command in commands]
    return found


def follow(home: Path, without: str | None = None) -> dict[str, str]:
    """Take all steps in `home` but commands that begin with `without`; what they printed."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    said = {}
    for kind, text in steps():
        if kind != "sh":
            (home / kind).write_text(text, encoding="utf-8")
        elif without is None or not text.startswith(without):
            done = subprocess.run(
                ["/bin/sh", "-c", text], cwd=home, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            said[text.split(" -")[0]] = done.stdout
    return said


def test_it_has_all_the_steps() -> None:
    commands = [text for kind, text in steps() if kind == "sh"]
    verbs = ("data import", "model build", "model inspect", "model check", "simulate")
    for verb in verbs:
        assert any(command.startswith(f"qflare {verb}") for command in commands)
    assert "my_model.py" in dict(steps())


def learned(home: Path, said: dict[str, str]) -> None:
    """The run of the end was a good one."""
    report = json.loads((home / "runs" / "report.json").read_text())
    assert (report["status"], report["devices"], report["rounds"]) == ("ok", 5, 10)
    assert report["final_accuracy"] > 0.5  # of seven classes
    assert report["run"]["dataset"] == "recordings"
    assert "5 devices" in said["qflare data import watch.csv"]
    assert said["head"] in TUTORIAL.read_text(encoding="utf-8")


def test_everything_but_the_building(tmp_path: Path) -> None:
    """Without TensorFlow: the zoo's model takes the place of the one that would be built."""
    model = tmp_path / "model.tflite"
    model.write_bytes(zoo.load("watch_cnn").tflite)
    learned(tmp_path, follow(tmp_path, without="qflare model build"))


def test_everything(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")
    learned(tmp_path, follow(tmp_path))
    assert shutil.which("qflare", path=str(Path(sys.executable).parent))
    model = (tmp_path / "model.tflite").read_bytes()
    assert b"exercises" in model

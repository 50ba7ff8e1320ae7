"""What the device works with: interpreter, data, gates. What needs arrays runs in a child."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.doctor.finding import Finding, bad, ok, skipped, split, warn

if TYPE_CHECKING:
    from edge_runtime.config import EdgeConfig

_MAGIC: Final = b"TFL3"  # of a .tflite, from its fifth byte on
_CHECK_S: Final = 120.0


def check_training() -> Finding:
    """Train the smallest model of the zoo, in a process of its own."""
    from edge_runtime.provision.hardware_test import train

    found = train()
    if found.good:
        return ok("training", found.text)
    return bad("training", found.text, "install qflare[edge] again; see docs/upgrades.md")


def check_data(config: "EdgeConfig", config_file: Path, model: Path | None) -> Iterator[Finding]:
    """Does the data open, and does it suit the model?"""
    from edge_runtime.storage.sealing import locked

    name = "data"
    model = model or newest_model(config.device.state_dir)
    if model is None:
        if config.data.path.exists():
            yield skipped(name, "no model is here yet to hold it against", "--model FILE names one")
        else:
            yield bad(name, f"{config.data.path} isn't there", "correct data.path in edge.toml")
        return
    if config.data.collected and locked(
        config.device.state_dir, os.environ, config.storage.key_file
    ):
        words = "the samples are encrypted, and systemd gives the key to the services alone"
        yield skipped(name, words)
        return
    command = [sys.executable, "-m", "edge_runtime.sources.check"]
    try:
        done = subprocess.run(
            [*command, "--config", str(config_file), "--model", str(model)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHECK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield bad(name, f"it didn't open within {_CHECK_S:.0f} s", "look at data.path and its disk")
        return
    try:
        found = json.loads(done.stdout)
    except ValueError:
        yield split(name, done.stderr.decode("utf-8", "replace")[-400:] or "the check ended oddly")
        return
    yield from _of_report(found)


def _of_report(found: dict[str, Any]) -> Iterator[Finding]:
    problems = [str(problem) for problem in found["problems"]]
    for problem in problems:
        yield split("data", problem)
    if not problems:
        examples = found["examples"]
        words = f"{examples['train']} examples to train on, {examples['test']} to test"
        yield ok("data", f"{found['kind']}: {words}, for {found['model']}")


def newest_model(state_dir: Path) -> Path | None:
    """The newest of the graphs that the device keeps."""
    from edge_runtime.jobs import blobs_of

    found: list[tuple[float, Path]] = []
    for path in blobs_of(state_dir).glob("*"):
        try:
            with path.open("rb") as file:
                if file.read(8)[4:] == _MAGIC:
                    found.append((path.stat().st_mtime, path))
        except OSError:
            continue
    return max(found)[1] if found else None


def check_gates(config: "EdgeConfig", root: Path = Path("/")) -> Iterator[Finding]:
    """What keeps training from starting, at this moment."""
    from edge_runtime.gates.keeper import describe
    from edge_runtime.gates.rules import HOT
    from edge_runtime.gates.settings import Ceiling
    from qflare.host.boards import detect

    board = detect(root)
    hot = HOT if board is None else Ceiling(board.thermal.hold, board.thermal.resume)
    zones = () if board is None else board.thermal.zones
    found = describe(config.gates, config.device.state_dir, hot, zones, root)
    for gate in found["gates"]:
        name = f"gate {gate['gate']}"
        if gate["gate"] == "disk" and not config.device.state_dir.exists():
            continue  # said already
        if gate["standing"] == "closed":
            yield warn(name, gate["says"], "training waits; that may be just what is wanted")
        elif "trouble" in gate:
            yield warn(name, gate["trouble"], f"mend it, or set gates.{gate['gate']}.enabled")
    if found["open"]:
        judged = [gate["gate"] for gate in found["gates"] if gate["standing"] == "open"]
        yield ok("gates", f"all open ({', '.join(judged) or 'none applies'})")

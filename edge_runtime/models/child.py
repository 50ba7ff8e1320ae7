"""Run a model in a process of its own, so that whatever it does there ends there. I/O.

This keeps a damaged or greedy file from taking the tool with it. It is no sandbox: a file that
attacks the interpreter runs with the rights of whoever started the tool.
"""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qflare.faults import LocalFault

MEMORY_REFUSED: Final = 99  # the child's exit code when it hit its limit of memory
_TAIL: Final = 300  # characters of the child's last words that are shown


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may take."""

    seconds: float = 120.0
    memory: int = 2 * 2**30  # bytes of address space, on top of what the interpreter takes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the child did. `results` are those of the steps that it ended, by name.

    `fault` is None if it came to the end, else how it ended; `step` is where it was.
    """

    results: dict[str, dict[str, Any]]
    step: str
    fault: str | None
    code: str | None  # of the finding that the fault is


def run_child(job: str, path: Path, options: dict[str, Any], limits: Limits) -> Outcome:
    """Run `edge_runtime.models.probe` on a file. LocalFault if no interpreter is installed."""
    command = [sys.executable, "-m", "edge_runtime.models.probe"]
    order = {
        "job": job,
        "path": str(path.resolve()),
        "seconds": limits.seconds,
        "memory": limits.memory,
        **options,
    }
    child = subprocess.Popen(
        [*command, json.dumps(order)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    late = False
    try:
        try:
            said, complaints = child.communicate(timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            late = True
            child.kill()
            said, complaints = child.communicate()
    except BaseException:
        child.kill()
        child.wait()
        raise
    return _outcome(said, complaints, child.returncode, late, limits)


def _outcome(said: bytes, complaints: bytes, status: int, late: bool, limits: Limits) -> Outcome:
    results: dict[str, dict[str, Any]] = {}
    step = "start"
    for line in said.decode(errors="replace").splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            break  # cut off in the middle
        if "unavailable" in message:
            raise LocalFault(message["unavailable"])
        step = message["step"]
        if "result" in message:
            results[step] = message["result"]
    tail = " ".join(complaints.decode(errors="replace").split())[-_TAIL:]
    if late:
        fault, code = f"it took longer than {limits.seconds:g} s", "too-slow"
    elif status == MEMORY_REFUSED or "std::bad_alloc" in tail:
        fault, code = (
            f"it wanted more than {limits.memory >> 20:,} MiB of memory",
            "too-much-memory",
        )
    elif status < 0:
        fault, code = f"the interpreter's process died of {_name(-status)}", "crash"
    elif status:
        fault, code = f"the interpreter's process ended with code {status}: {tail}", "crash"
    else:
        return Outcome(results, step, None, None)
    return Outcome(results, step, fault, code)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

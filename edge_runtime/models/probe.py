"""The child's side of `edge_runtime.models.child`: limits, then one job, a line for each step.

    python -m edge_runtime.models.probe '{"job": "check", "path": "model.tflite", …}'

A line on stdout when a step begins and one with its result: if the process dies, the last line says
where. What TFLite prints goes to stderr.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from edge_runtime.interpreter import open_interpreter
from edge_runtime.models.steps import Result, Trouble
from qflare.faults import LocalFault, PeerFault

_JOBS: Final = {
    "check": "edge_runtime.models.trials",
    "try": "edge_runtime.models.foreign",
    "bench": "edge_runtime.models.timing",
}
_MEMORY_REFUSED: Final = 99  # as in `edge_runtime.models.child`, which this doesn't import


def main(order: dict[str, Any]) -> int:
    """Do the job that was ordered."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # It ends also if the parent is gone.
    signal.setitimer(signal.ITIMER_REAL, order["seconds"] + 5.0)

    def say(message: Result) -> None:
        out.write(json.dumps(message, allow_nan=False) + "\n")
        out.flush()

    def run(step: str, work: Callable[[], Result]) -> Result:
        say({"step": step})
        try:
            result = work()
        except Trouble as trouble:
            result = {"trouble": trouble.code, "what": str(trouble)}
        except PeerFault as fault:
            result = {"trouble": "refused", "what": fault.detail}
        except (LocalFault, ValueError, RuntimeError, KeyError, TypeError, IndexError) as error:
            if "alloc" in str(error).lower() and "memory" in str(error).lower():
                raise MemoryError from None
            result = {"trouble": "refused", "what": " ".join(str(error).split())[:400]}
        say({"step": step, "result": result})
        return result

    try:
        _verify_interpreter()
        job = import_module(_JOBS[order["job"]])
        _limit(order["memory"])
        job.work(Path(order["path"]).read_bytes(), order, run)
    except MemoryError:
        return _MEMORY_REFUSED
    except LocalFault as fault:
        say({"unavailable": str(fault)})
        return 1
    return 0


def _verify_interpreter() -> None:
    """Raise LocalFault if there is none on this machine."""
    with suppress(ValueError, RuntimeError):
        open_interpreter(b"")  # which is no model


def _limit(memory: int) -> None:
    """Let the process take so much address space more than it has, interpreter and all."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

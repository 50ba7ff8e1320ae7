"""Child process: one framework, one model. Reads a command a line, answers with a line of JSON.

`losses N`: N steps from the initial weights. `time N [S]`: the same, and how long each step took,
in microseconds; no new one after S seconds. `memory`: what is resident now. The end of the input
ends the process.
"""

import argparse
import gc
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.training.models import MODELS

FOREVER = 3600
SIDES = ("qflare", "tensorflow", "torch", "numpy")


def resident() -> dict[str, float]:
    """Resident memory of this process in MB, and its parts: its own, and mapped files."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    keys = {"resident": "VmRSS", "own": "RssAnon", "files": "RssFile", "peak": "VmHWM"}
    return {name: int(fields[key].split()[0]) * 1024 / 1e6 for name, key in keys.items()}


def losses(side: Any, steps: int) -> list[float]:
    side.reset()
    return [side.step(i) for i in range(steps)]


def timed(side: Any, steps: int, seconds: float) -> list[float]:
    side.reset()
    clock, found = time.perf_counter_ns, []
    gc.collect()
    gc.disable()
    end = clock() + seconds * 1e9
    for i in range(steps):
        start = clock()
        side.step(i)
        now = clock()
        found.append((now - start) / 1000)
        if now > end:
            break
    gc.enable()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--variant", default="", help="none: say which there are, and the version")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", default="", help="QFLARE's model file")
    args = parser.parse_args()
    module = import_module(f"benchmarks.training.side_{args.side}")
    if not args.variant:
        variants = {name: module.variants(model) for name, model in MODELS.items()}
        print(json.dumps({"version": module.version(), "variants": variants}))
        return
    side = module.Side(MODELS[args.model], args.variant, args.threads, args.file)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command, *number = line.split()
        answer: Any
        if command == "losses":
            answer = losses(side, int(number[0]))
        elif command == "time":
            answer = timed(side, int(number[0]), float(number[1] if number[1:] else FOREVER))
        else:
            answer = resident()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""What the lock-down of the enclave's process costs: start to ready, and updates a second.

    python -m benchmarks.hardening [--json FILE]

Each figure stands beside that of the same process without it, measured in turns in the same run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT

READY_MAX_S, SLOWER_MAX = 1.0, 0.10
_OPEN = "import enclave.server as s; s.lock_down = lambda keep=None: (); raise SystemExit(s.main())"


def ready(folder: Path, locked: bool) -> float:
    """Seconds from the start of the process to its line "ready"."""
    (folder / "owner.key").write_bytes(SigningKey.generate(DEFAULT).verify_key.raw)
    config = folder / "enclave.toml"
    config.write_text(
        f'[enclave]\nfleet = "bench"\nstate_dir = "{folder}/state"\n'
        f'socket = "{folder}/run/s"\nowner_key = "{folder}/owner.key"\n'
    )
    program = ["-m", "enclave.server"] if locked else ["-c", _OPEN]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *program, "--config", str(config)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        took = time.perf_counter() - began
        assert line["event"] == "ready", line
        assert bool(line["layers"]) is locked
    finally:
        process.kill()
        process.communicate()
    return took


def admitting(params: int, updates: int, locked: bool) -> dict[str, Any]:
    """What a child process measured."""
    command = [sys.executable, "-m", "benchmarks.hardening.admitting", "--repeats", "3"]
    command += ["--params", str(params), "--updates", str(updates), *["--locked"] * locked]
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as the enclave has it: no thread but its own
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print the figures, and what they are held against; the exit status is 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--params", type=int, default=100_000)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=4)
    args = parser.parse_args()
    starts: dict[bool, list[float]] = {True: [], False: []}
    rates: dict[bool, list[float]] = {True: [], False: []}
    layers: list[str] = []
    for pair in range(args.pairs):
        for locked in (True, False) if pair % 2 else (False, True):
            with tempfile.TemporaryDirectory() as folder:
                starts[locked].append(ready(Path(folder), locked))
            found = admitting(args.params, args.updates, locked)
            rates[locked] += found["updates_per_s"]
            layers = found["layers"] or layers
    slower = 1 - median(rates[True]) / median(rates[False])
    result = {
        "layers": layers,
        "ready_s": {"locked": starts[True], "open": starts[False]},
        "updates_per_s": {"locked": rates[True], "open": rates[False]},
        "slower": slower,
    }
    print(f"layers: {', '.join(layers)}")
    print(
        f"start to ready: {median(starts[True]):.2f} s locked down, {median(starts[False]):.2f} s "
        f"without (at most {READY_MAX_S:.0f} s)"
    )
    print(
        f"updates of {args.params:,} parameters, q4: {median(rates[True]):,.0f}/s locked down, "
        f"{median(rates[False]):,.0f}/s without: {slower:+.1%} (at most {SLOWER_MAX:.0%})"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

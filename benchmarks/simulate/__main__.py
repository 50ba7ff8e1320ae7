"""`qflare simulate` with its defaults, for several seeds, beside the plain float reference.

`python -m benchmarks.simulate [--seeds 0 1 2] [--json FILE]`
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

KEYS = (
    "final_accuracy",
    "reference_accuracy",
    "wall_s",
    "overhead_s_per_round_median",
    "encoded_bytes_median",
    "update_bytes_median",
    "update_float32_bytes",
)
TARGETS = (
    "targets: accuracy >= 0.87 and within 0.02 of the reference; wall <= 120 s; overhead <= 1 s"
)


def main() -> None:
    """Print a line for each seed and, with --json, write the reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--broker", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    reports = {}
    print("seed  " + "  ".join(KEYS))
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "qflare.cli", "simulate", "--json", f"--seed={seed}"]
            command += [f"--workdir={folder}", f"--broker={args.broker}"]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
            )
        report = reports[seed] = json.loads(done.stdout)
        print(f"{seed:4}  " + "  ".join(f"{report[key]:{len(key)}.4g}" for key in KEYS), flush=True)
    print(TARGETS)
    if args.json:
        args.json.write_text(json.dumps(reports, indent=2) + "\n")


if __name__ == "__main__":
    main()

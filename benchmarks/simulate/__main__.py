"""`qflare simulate` with its defaults, for several seeds, beside the plain float reference.

`python -m benchmarks.simulate [--seeds 0 1 2 3 4 5] [--json FILE]`

One run says little: training is chaotic, and the final accuracy of 745 test examples scatters by a
point when nothing changes but the rounding of a sum. What sealing and compression cost is the mean
gap over the seeds, which is given with its standard error.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

KEYS = (
    "final_accuracy",
    "reference_accuracy",
    "wall_s",
    "overhead_s_per_round_median",
    "encoded_bytes_median",
    "update_bytes_median",
    "update_float32_bytes",
)
TARGETS = "targets: accuracy >= 0.87; wall <= 120 s; overhead <= 1 s"
MARGIN = 0.02  # of accuracy that sealing and compression may cost, on average


def main() -> None:
    """Print a line for each seed and, with --json, write the reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(6)])
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
    print(judged([report["accuracy_gap"] for report in reports.values()]))
    if args.json:
        args.json.write_text(json.dumps(reports, indent=2) + "\n")


def judged(gaps: list[float]) -> str:
    """The mean gap in words, with its standard error, against the margin."""
    middle = mean(gaps)
    said = f"gap to plain float: {100 * middle:+.1f} points on average"
    if len(gaps) > 1:
        spread = stdev(gaps)
        error = spread / math.sqrt(len(gaps))
        said += f" ± {100 * error:.1f} (standard error; one run scatters by {100 * spread:.1f})"
    kept = "within" if middle >= -MARGIN else "MORE than"
    return f"{said}: {kept} the {100 * MARGIN:.0f} points that sealing and compression may cost"


if __name__ == "__main__":
    main()

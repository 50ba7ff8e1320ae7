"""QFLARE's device side beside Flower's, on the same job and in one run.

`python -m benchmarks.device [--json FILE] [--rounds N] [--idle SECONDS] [--python-flower PATH]`

Two devices take part, the first is measured: all of its processes together, from /proc; and its
bytes, by a counting proxy before the server. Both train the demo's model file with LiteRT, on the
same samples, batches and epochs, by the file's own training step, so that what differs is the
framework. QFLARE also judges models before and after, compresses, seals, signs, and writes
durably; Flower's evaluation is left out. Neither uses TLS here.

Of the processor time of a round, that of the training steps themselves is taken off: in Flower's
ClientApp it is measured on the spot, for QFLARE it is that of the same steps in a process alone.
QFLARE's training process stays for the rounds that follow soon; the first round's price, which is
that of every round if they are far apart, is measured in a run of its own.

PSS shares the pages of libraries between all processes that map them, so on a machine that runs
more Python it is lower than on a device, for both; RSS and the anonymous part have no such help.
The start is from exec to READY=1, which QFLARE says when it is connected or has tried to be; of
SuperNode, to the SuperLink's first answer: its SuperExec isn't there yet.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.aggregation.__main__ import machine
from benchmarks.device import flower, install, job, ours
from benchmarks.device.table import missed, table
from qflare.faults import LocalFault
from qflare.simulate.data.cache import cache_dir


def _training_alone(made: job.Job, rounds: int) -> float:
    """In a process like a device's, niced and without docstrings."""
    command = [sys.executable, "-OO", "-m", "benchmarks.device.job"]
    command += [str(made.model), str(made.data[0]), f"--epochs={made.epochs}", f"--rounds={rounds}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)["cpu_s"])


def _flower(args: argparse.Namespace, made: job.Job, folder: Path) -> tuple[str, dict[str, float]]:
    """Its version and figures; without any, it is left out, and why is said."""
    if args.without_flower:
        return "", {}
    try:
        kept = cache_dir(folder) / f"flower-{flower.VERSION}"
        python = args.python_flower or flower.environment_of(kept)
        version = flower.version_of(python)
        return version, flower.measure(python, made, folder, args.rounds, args.idle)
    except LocalFault as fault:
        print(f"Flower is left out: {fault}", file=sys.stderr)
        return "", {}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One after the other, so that neither disturbs the other."""
    with tempfile.TemporaryDirectory(prefix="qflare-device-") as name:
        home = Path(name)
        for part in ("job", "flower", "qflare", "first", "install"):
            (home / part).mkdir()
        made = job.make(home / "job")
        training = _training_alone(made, args.rounds)
        mine = ours.measure(home / "qflare", args.rounds, args.idle, training)
        first = ours.measure(home / "first", 1, 0.0, training)
        mine["cpu_s_first_round"] = first["cpu_s_per_round_outside_training"]
        version, theirs = _flower(args, made, home / "flower")
        figures = {"qflare": mine, "flower": theirs}
        if not args.without_install:
            for side, sizes in install.measure(home / "install").items():
                figures[side] |= sizes if figures[side] else {}
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "job": made.says,
        "rounds": args.rounds,
        "idle_s": args.idle,
        "flwr": version,
        "figures": figures,
    }


def main() -> int:
    """Print the table and, with --json, write the figures; 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--idle", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument(
        "--python-flower",
        type=Path,
        help=f"one that has {' and '.join(flower.REQUIREMENTS)}; else an environment is made",
    )
    parser.add_argument("--without-flower", action="store_true")
    parser.add_argument("--without-install", action="store_true", help="measure no install size")
    args = parser.parse_args()
    result = measure(args)
    print(table(result))
    lines = missed(result["figures"]["qflare"])
    result["missed"] = lines
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())

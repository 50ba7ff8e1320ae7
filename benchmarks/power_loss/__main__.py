"""Cut the power at random points of a device's life, and see what is on its disk.

The real store works on a real ext4 on a disk that records every write and flush. Then the disk is
built anew as it may be after a cut at a random point (see disks.py), mounted, and the store has to
open by itself with exactly what had been acknowledged, or that and the step that was at work.
`python -m benchmarks.power_loss [--cuts 500] [--seed 1] [--json FILE]`, as root.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.power_loss.campaign import campaign
from benchmarks.power_loss.mounts import missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=40, help="of each run")
    parser.add_argument("--runs", type=int, default=4, help="every second one is encrypted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lacking = missing()
    if lacking:
        sys.stderr.write(f"power_loss: {lacking}\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="qflare-power-") as folder:
        figures = campaign(Path(folder), args.cuts, args.runs, args.rounds, args.seed)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):40} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""A whole fleet, one of whose devices loses power again and again while rounds go on.

Real broker, coordinator, enclave and daemons; the device's state is on a recorded ext4.
`python -m benchmarks.power_loss.live [--cuts 10] [--rounds 30] [--json FILE]`, as root.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.power_loss.mounts import missing
from benchmarks.quiet import Quiet
from qflare.host.supervise import ChildSpec, Supervisor
from qflare.simulate.options import Options
from qflare.simulate.run import ENVIRONMENT, Simulation, python
from qflare.simulate.workdir import claim


class Powerless(Simulation):
    """A simulation whose first device is a machine with a switch."""

    folder: Path
    cuts: int

    async def start_fleet(self, supervisor: Supervisor, devices: Sequence[Path]) -> None:
        first, *others = devices
        options = ("--config", first, "--folder", self.folder, "--cuts", self.cuts)
        command = python("benchmarks.power_loss.machine", *map(str, options))
        # The benchmarks are no installed package: a child finds them by their checkout's path.
        found = {**ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[2])}
        await supervisor.start(ChildSpec("machine", command, found))
        for path in others:
            mine = python("edge_runtime.fleet", "--config", str(path))
            await supervisor.start(ChildSpec(path.parent.name, mine, ENVIRONMENT))


def live(folder: Path, cuts: int, rounds: int) -> dict[str, Any]:
    """The figures; `ok` if every update that was accepted counted once, and nothing failed."""
    (folder / "machine").mkdir()
    options = Options(devices=3, rounds=rounds, reference=False, workdir=folder / "work")
    with claim(options.workdir, keep=False) as site:
        simulation = Powerless(options, site, options.workdir / "logs", Quiet())
        simulation.folder, simulation.cuts = folder / "machine", cuts
        report = asyncio.run(simulation.run())
    figures: dict[str, Any] = json.loads((folder / "machine" / "figures.json").read_text())
    figures["rounds"] = rounds
    figures["report"] = list(report.reasons)
    figures["ok"] = report.ok and not figures["failures"]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lacking = missing()
    if lacking:
        sys.stderr.write(f"power_loss.live: {lacking}\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="qflare-power-") as folder:
        figures = live(Path(folder), args.cuts, args.rounds)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())

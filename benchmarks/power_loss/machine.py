"""A machine with a disk and a switch: the real daemon runs on it, and loses power again and again.

Each time the daemon is killed, what the kernel had not written is gone with it, the disk is built
anew as it may be after the cut, mounted, judged, and the daemon starts on it again.
`python -m benchmarks.power_loss.machine --config edge.toml --folder DIR --cuts N`; SIGTERM ends it.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.power_loss.disks import MODES, Disk
from benchmarks.power_loss.marked import digest
from benchmarks.power_loss.mounts import make_ext4, mounted, recorded
from benchmarks.power_loss.recorder import Kind, Record, read_log
from edge_runtime.store import Store


class Machine:
    """Figures are in `figures`."""

    def __init__(self, config: Path, folder: Path, seed: int) -> None:
        self._config, self._folder = config, folder
        self._draw = random.Random(seed)
        self.stopped = False
        self.figures: dict[str, Any] = {
            "cuts": 0,
            "failures": [],
            "unflushed": 0,
            "commits": 0,
            "writes": 0,
            "flushes": 0,
            "bytes": 0,
        }

    def live(self, cuts: int) -> None:
        """Start, cut after a while, start again; after the last cut run until SIGTERM."""
        image = self._folder / "image"
        make_ext4(image)
        for number in range(cuts + 1):
            here = self._folder / f"life-{number}"
            here.mkdir()
            base, log = image.read_bytes(), here / "log"
            until = self._draw.uniform(0.8, 3.0) if number < cuts else None
            with recorded(image, log, here) as (files, mark):
                self._run(files, mark, until)
                power = log.stat().st_size  # what comes after was never written
            self._count(log)
            if self.stopped:
                return
            self._cut(image, base, list(read_log(log)), log, power)

    def _run(self, files: Path, mark: Path, until: float | None) -> None:
        command = [sys.executable, "-m", "benchmarks.power_loss.marked", str(mark)]
        environ = os.environ | {"QFLARE_EDGE__DEVICE__STATE_DIR": str(files / "state")}
        daemon = subprocess.Popen(
            [*command, "--config", str(self._config)], env=environ, start_new_session=True
        )
        began = time.monotonic()
        while not self.stopped and (until is None or time.monotonic() - began < until):
            time.sleep(0.02)
            if daemon.poll() is not None:
                self.figures["failures"].append(f"the daemon ended by {daemon.returncode}")
                break
        daemon.send_signal(signal.SIGTERM if self.stopped else signal.SIGKILL)
        daemon.wait()

    def _cut(self, image: Path, base: bytes, records: list[Record], log: Path, power: int) -> None:
        at = sum(1 for _ in read_log(_upto(log, power)))
        mode = self._draw.choice(MODES)
        disk = Disk(base, records)
        image.write_bytes(disk.cut(at, mode, self._draw))
        self.figures["cuts"] += 1
        self.figures["unflushed"] += bool(at) and records[at - 1].kind is not Kind.FLUSH
        said = [mark.split(b" ")[1] for mark in disk.marks]
        with mounted(image, self._folder / "judged") as files:
            try:
                found = self._judge(files / "state")
            except Exception as error:
                self.figures["failures"].append(f"{mode}: {type(error).__name__}: {error}")
                return
        # The last mark, or the step that was at work when the power went: which one it was nobody
        # noted, so that any other state counts as long as it was never said before.
        if found in said[:-1] and found != said[-1]:
            self.figures["failures"].append(f"{mode}: an earlier state came back")

    def _judge(self, state: Path) -> bytes:
        store = Store(state)
        try:
            store.load()
            assert store.findings == [], store.findings
            return digest(store)
        finally:
            store.close()

    def _count(self, log: Path) -> None:
        for record in read_log(log):
            self.figures["commits"] += record.data.startswith(b"commit ")
            self.figures["writes"] += record.kind is Kind.WRITE
            self.figures["flushes"] += record.kind is Kind.FLUSH
            self.figures["bytes"] += len(record.data) if record.kind is Kind.WRITE else 0


def _upto(log: Path, size: int) -> Path:
    """The log as it was when the power went."""
    short = log.with_name("until-the-cut")
    with log.open("rb") as file:
        short.write_bytes(file.read(size))
    return short


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    machine = Machine(args.config, args.folder, args.seed)

    def stop(*_: object) -> None:
        machine.stopped = True

    signal.signal(signal.SIGTERM, stop)
    try:
        machine.live(args.cuts)
    except Exception as error:
        machine.figures["failures"].append(f"the machine: {type(error).__name__}: {error}")
        raise
    finally:
        (args.folder / "figures.json").write_text(json.dumps(machine.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Record a run, cut it many times, count."""

import random
import shutil
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.power_loss import workload
from benchmarks.power_loss.disks import MODES, Disk
from benchmarks.power_loss.mounts import make_ext4, mounted, recorded
from benchmarks.power_loss.recorder import Kind, Record, read_log

_FAILURES_SHOWN = 5


def campaign(folder: Path, cuts: int, runs: int, rounds: int, seed: int) -> dict[str, Any]:
    """`cuts` power cuts, spread over `runs` runs; the figures, with the failures in words."""
    totals: Counter[str] = Counter()
    failures: list[str] = []
    for number in range(runs):
        here = folder / f"run-{number}"
        here.mkdir()
        base, log = record(here, seed + number, rounds)
        totals["rounds"] += rounds
        totals["writes"] += sum(r.kind is Kind.WRITE for r in log)
        totals["flushes"] += sum(r.kind is Kind.FLUSH for r in log)
        totals["bytes"] += sum(len(r.data) for r in log if r.kind is Kind.WRITE)
        share = cuts // runs + (number < cuts % runs)
        failures += cut(here, base, log, share, seed + number, rounds, totals)
        shutil.rmtree(here)
    return {
        "cuts": cuts,
        "failed": len(failures),
        "rounds_recorded": totals["rounds"],
        "writes_recorded": totals["writes"],
        "flushes_recorded": totals["flushes"],
        "cuts_with_unflushed_writes": totals["unflushed"],
        "cuts_by_mode": {mode: totals[mode] for mode in MODES},
        "flushes_per_round": round(totals["flushes"] / max(1, totals["rounds"]), 1),
        "device_bytes_per_round": totals["bytes"] // max(1, totals["rounds"]),
        "failures": failures[:_FAILURES_SHOWN],
    }


def record(here: Path, seed: int, rounds: int) -> tuple[bytes, list[Record]]:
    """The disk before a run, and what was written to it meanwhile."""
    image, log = here / "image", here / "log"
    make_ext4(image)
    base = image.read_bytes()
    with recorded(image, log, here) as (files, mark):
        workload.work(files, mark, seed, rounds)
    return base, list(read_log(log))


def cut(
    here: Path,
    base: bytes,
    log: list[Record],
    cuts: int,
    seed: int,
    rounds: int,
    totals: "Counter[str]",
) -> list[str]:
    """Cut, mount, compare; what went wrong, in words that let it be repeated."""
    draw = random.Random(seed)
    points = sorted(draw.randrange(1, len(log) + 1) for _ in range(cuts))
    disk, failures = Disk(base, log), []
    image = here / "cut"
    for point in points:
        mode = draw.choice(MODES)
        content = disk.cut(point, mode, draw)
        totals[mode] += 1
        totals["unflushed"] += log[point - 1].kind is not Kind.FLUSH
        image.write_bytes(content)
        try:
            with mounted(image, here / "after") as files:
                workload.verify(files, seed, rounds, len(disk.marks))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            says = f"seed {seed}, record {point} of {len(log)}, {mode}, {len(disk.marks)} marks"
            failures.append(f"{says}: {type(error).__name__}: {error} ({where.name})")
            sys.stderr.write(failures[-1] + "\n")
    return failures

"""What a device writes to its card: in a round, and while nothing happens.

The store does what it does in a round of the demo's watch model (weights of 28 kB, residual of
14 kB, update of 7 kB), on a recorded ext4: bytes and flushes are those that reached the disk, with
all that the file system adds. The first half of the rounds is left out: until its log has its full
size, SQLite makes it longer with each transaction, and the file system writes that down each time.
`python -m benchmarks.power_loss.writes [--rounds 200] [--idle 60] [--json FILE]`, as root.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.power_loss.mounts import make_ext4, missing, recorded
from benchmarks.power_loss.recorder import Kind, read_log
from edge_runtime.events import Commit, Settle
from edge_runtime.memory import Fate, JournalEntry, Memory, OutboxEntry, RoundStats
from edge_runtime.store import Store
from qflare.merkle import EMPTY_ROOT
from qflare.messages import Checkpoint
from qflare.names import Digest

WEIGHTS, RESIDUAL, UPDATE = 28_400, 14_200, 6_900
_SETTLED_S = 45.0  # what was dirty is written after 30 s at the latest, and the journal every 5 s


def one_round(store: Store, memory: Memory, round_: int, blobs: list[bytes]) -> Memory:
    """The effects of a round, as the machine gives them."""
    draw = random.Random(round_)
    memory = memory.with_checkpoint(Checkpoint(round_, EMPTY_ROOT))
    store.save_memory(memory)
    claims, data = Digest.of(draw.randbytes(8)), draw.randbytes(UPDATE)
    memory, update = memory.with_answer(round_, claims), Digest.of(data)
    stages = tuple((f"stage-{i}", draw.random()) for i in range(8))
    stats = RoundStats(stages=stages, counters=(("steps", 300),))
    journal = JournalEntry(round_, claims, update, Fate.WAITING, stats)
    entry = OutboxEntry(round_, update, 65536, data)
    store.commit(Commit(entry, journal, draw.randbytes(RESIDUAL), memory))
    store.settle(Settle(update, Fate.ACCEPTED, stats))
    memory = memory.with_checkpoint(Checkpoint(round_ + 1, EMPTY_ROOT))
    store.save_memory(memory)
    blobs[:] = [*blobs[-1:], draw.randbytes(WEIGHTS)]
    store.blobs.write(Digest.of(blobs[-1]), blobs[-1])
    memory = memory.with_active(Digest.of(blobs[-1]))
    store.save_memory(memory)
    store.settle(Settle(update, Fate.COUNTED, stats))
    store.blobs.keep([Digest.of(blob) for blob in blobs])
    return memory


def measure(folder: Path, rounds: int, idle: float) -> dict[str, Any]:
    image, log = folder / "image", folder / "log"
    make_ext4(image)
    with recorded(image, log, folder) as (files, mark), mark.open("wb", buffering=0) as marks:
        store, memory, blobs = Store(files / "state"), replace(Memory(), manifest_version=1), [b""]
        store.load()
        for round_ in range(1, rounds + 1):
            memory = one_round(store, memory, round_, blobs)
            if round_ in (rounds // 2, rounds):
                marks.write(b"half" if round_ < rounds else b"done")
        time.sleep(_SETTLED_S)
        marks.write(b"idle")
        time.sleep(idle)
        marks.write(b"end")
        store.close()
    parts: dict[bytes, dict[str, int]] = {}
    now = {"writes": 0, "flushes": 0, "bytes": 0}
    for record in read_log(log):
        match record.kind:
            case Kind.MARK:
                parts[record.data] = now
                now = {"writes": 0, "flushes": 0, "bytes": 0}
            case Kind.WRITE:
                now["writes"] += 1
                now["bytes"] += len(record.data)
            case Kind.FLUSH:
                now["flushes"] += 1
    counted = rounds - rounds // 2
    payload = WEIGHTS + RESIDUAL + UPDATE
    per_round = {name: round(value / counted, 1) for name, value in parts[b"done"].items()}
    return {
        "rounds_counted": counted,
        "payload_bytes_per_round": payload,
        **{f"{name}_per_round": value for name, value in per_round.items()},
        "times_the_payload": round(per_round["bytes"] / payload, 2),
        "first_half_bytes_per_round": parts[b"half"]["bytes"] // (rounds // 2),
        "idle_seconds": idle,
        **{f"{name}_while_idle": value for name, value in parts[b"end"].items()},
        "mb_per_day_at_24_rounds": round(24 * per_round["bytes"] / 1e6, 2),
        "mb_per_day_at_1440_rounds": round(1440 * per_round["bytes"] / 1e6, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lacking = missing()
    if lacking:
        sys.stderr.write(f"power_loss.writes: {lacking}\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="qflare-writes-") as folder:
        figures = measure(Path(folder), args.rounds, args.idle)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):32} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Samples and power cuts, on a real ext4 whose disk forgets what wasn't flushed.

What a daemon trains on after a cut, before the collector is up again and after it has mended the
ring, is what was collected: whole, in order, once, and nothing that was flushed is missing but what
had to make room. A row says itself which one it is.
"""

import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.power_loss.disks import MODES, Disk
from benchmarks.power_loss.mounts import make_ext4, missing, mounted, recorded
from benchmarks.power_loss.recorder import read_log
from edge_runtime.sources import ring as ring_module
from edge_runtime.sources.ring import Ring, cipher_of, rows_collected
from edge_runtime.sources.segment import Cipher, Head, Rows, segments
from edge_runtime.sources.tracks import Track

lacking = missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(lacking is not None, reason=str(lacking)),
    pytest.mark.xdist_group("loop devices"),
]

HEAD = Head("qflare-samples/1", ("a", "b"), ("1", "1"), 100.0, 0, False)
QUOTA = 300_000  # a few files of 64 KiB
KEY = bytes(range(32))
BATCHES, MOST = 60, 900


def batch(first: int, count: int) -> Rows:
    """Rows that say which they are: in their time, in their values, and in their label."""
    rows = Rows()
    for i in range(first, first + count):
        rows.add(i, f"L{i // 100}", i % 7 == 0, (float(i), float(i % 1000) / 8))
    return rows


def work(folder: Path, mark: Path, seed: int) -> list[int]:
    """Collect; a mark after each flush. How many rows there were after each of them."""
    draw, total, ends = random.Random(seed), 0, []
    ring = Ring(folder, HEAD, QUOTA)
    with mark.open("wb", buffering=0) as marks:
        for number in range(BATCHES):
            if number == BATCHES // 2 or draw.random() < 0.1:  # it is killed, and started anew
                ring.close()
                ring = Ring(folder, HEAD, QUOTA, key_of(number, seed))
            count = draw.randrange(1, MOST)
            ring.append(batch(total, count))
            total += count
            ends.append(total)
            marks.write(b"flushed")
            ring.seal_older()
    ring.close()
    return ends


def key_of(number: int, seed: int) -> Cipher | None:
    """A device gets its key half way, in every second run."""
    return cipher_of(KEY) if seed % 2 and number >= BATCHES // 2 else None


def read(folder: Path) -> list[int]:
    """The rows that would be trained on, each found to be what it says that it is."""
    numbers: list[int] = []
    for number, name in segments(folder):
        if not (folder / name).stat().st_size:
            continue  # its first block never reached the disk
        try:
            track = Track(folder / name, number, cipher_of(KEY))
        except ring_module.LocalFault:
            continue  # so with a torn head: nothing in it was acknowledged
        times, values = track.columns.time, track.values(0, len(track)) if len(track) else None
        if values is not None:
            np.testing.assert_array_equal(values[:, 0], times.astype(np.float32))
            np.testing.assert_array_equal(values[:, 1], (times % 1000).astype(np.float32) / 8)
            names = ["", *track.columns.labels]
            said = [names[mark] for mark in track.columns.mark.tolist()]
            assert said == [f"L{i // 100}" for i in times.tolist()]
            assert not (~track.columns.broken & (times % 7 == 0)).any()
        numbers += times.tolist()
    return numbers


def verify(folder: Path, flushed: int, seed: int) -> int:
    """Before and after the collector is up again; how many rows more than were promised."""
    if not folder.exists():
        assert flushed == 0
        return 0
    before = read(folder)
    ring = Ring(folder, HEAD, QUOTA, cipher_of(KEY) if seed % 2 else None)
    found = read(folder)
    assert found == before  # mending takes nothing away from training
    assert found == list(range(found[0], found[-1] + 1)) if found else flushed == 0
    last = found[-1] + 1 if found else 0
    assert last >= flushed
    assert last == ring.rows == rows_collected(folder)
    ring.append(batch(last, 10))
    ring.close()
    again = read(folder)
    assert again[-10:] == list(range(last, last + 10))
    assert again == list(range(again[0], last + 10))
    return last - flushed


def campaign(here: Path, seed: int, cuts: int) -> Counter[str]:
    image, log_file = here / "image", here / "log"
    make_ext4(image)
    base = image.read_bytes()
    with recorded(image, log_file, here) as (files, mark):
        ends = work(files / "ring", mark, seed)
    log = list(read_log(log_file))
    draw, disk, seen = random.Random(seed), Disk(base, log), Counter[str]()
    for point in sorted(draw.randrange(1, len(log) + 1) for _ in range(cuts)):
        content = disk.cut(point, draw.choice(MODES), draw)
        (here / "cut").unlink(missing_ok=True)  # whatever still has it writes into that
        (here / "cut").write_bytes(content)
        flushed = ends[len(disk.marks) - 1] if disk.marks else 0
        with mounted(here / "cut", here / "after") as files:
            more = verify(files / "ring", flushed, seed)
        seen["cuts"] += 1
        seen["with more than was promised"] += more > 0
        seen["something flushed"] += flushed > 0
    return seen


@pytest.mark.parametrize("seed", [2, 3], ids=["plain", "gets a key half way"])
def test_no_torn_sample_is_trained_on_and_order_holds(tmp_path: Path, seed: int) -> None:
    seen = campaign(tmp_path, seed, cuts=40)
    assert seen["cuts"] == 40
    assert seen["something flushed"] > 20


def test_a_ring_that_doesnt_flush_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is worth something only if it fails for a ring that deserves it."""
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    with pytest.raises(AssertionError):
        campaign(tmp_path, 2, cuts=40)

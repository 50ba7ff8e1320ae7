"""Power cuts at random points on a real ext4, on a disk that drops what wasn't flushed."""

import random
from pathlib import Path

import pytest

from benchmarks.power_loss.campaign import campaign
from benchmarks.power_loss.disks import Disk
from benchmarks.power_loss.live import live
from benchmarks.power_loss.mounts import missing
from benchmarks.power_loss.recorder import Kind, Record
from edge_runtime.storage import database

lacking = missing()
needs_disks = pytest.mark.skipif(lacking is not None, reason=str(lacking))


@pytest.mark.slow
@needs_disks
@pytest.mark.xdist_group("loop devices")
def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    figures = campaign(tmp_path, cuts=40, runs=2, rounds=20, seed=7)
    assert figures["failures"] == []
    assert figures["cuts_with_unflushed_writes"] > 0


@pytest.mark.slow
@needs_disks
@pytest.mark.xdist_group("loop devices")
def test_a_store_that_doesnt_flush_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is worth something only if it fails for a store that deserves it."""
    hasty = tuple(p.replace("synchronous=FULL", "synchronous=OFF") for p in database._PRAGMAS)
    assert hasty != database._PRAGMAS
    monkeypatch.setattr(database, "_PRAGMAS", hasty)
    assert campaign(tmp_path, cuts=40, runs=1, rounds=20, seed=7)["failed"] > 0


def log(*records: tuple[Kind, int, bytes]) -> list[Record]:
    return [Record(*record) for record in records]


def test_what_was_flushed_stays_and_the_rest_may_go() -> None:

    draw, base = random.Random(1), bytes(4096)
    records = log(
        (Kind.WRITE, 0, b"a" * 512),
        (Kind.FLUSH, 0, b""),
        (Kind.MARK, 0, b"a is there"),
        (Kind.WRITE, 512, b"b" * 1024),
        (Kind.WRITE, 0, b"c" * 512),
    )
    disk = Disk(base, records)
    assert disk.cut(1, "nothing later", draw) == base
    assert disk.cut(2, "nothing later", draw)[:1024] == b"a" * 512 + bytes(512)
    assert disk.marks == []
    assert disk.cut(5, "nothing later", draw)[:1024] == b"a" * 512 + bytes(512)
    assert disk.marks == [b"a is there"]
    assert disk.cut(5, "everything later", draw)[:1536] == b"c" * 512 + b"b" * 1024
    seen = {disk.cut(5, "some sectors", draw)[:1536] for _ in range(200)}
    assert len(seen) == 8  # each of three sectors, or not
    for content in seen:
        assert set(content[:512]) <= set(b"ac")


@pytest.mark.slow
@needs_disks
@pytest.mark.xdist_group("loop devices")
def test_a_device_loses_power_while_its_fleet_works(tmp_path: Path) -> None:
    """Real processes: every update that was accepted counts once, whatever the cuts."""
    figures = live(tmp_path, cuts=3, rounds=30)
    assert figures["failures"] == []
    assert figures["report"] == []
    assert figures["ok"]
    assert figures["cuts"] > 0

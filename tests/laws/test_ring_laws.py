"""A ring on a disk that fails, under a collector that is killed: whole rows, in order, once."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.sources.ring import Ring, cipher_of, rows_collected
from edge_runtime.sources.segment import Head, Rows, segments
from edge_runtime.sources.tracks import Track

HEAD = Head("qflare-samples/1", ("a",), ("1",), 0.0, 0, False)
KEY = bytes(32)
QUOTA = 200_000  # a few files of 64 KiB

# How it goes: the write stops short, or is whole and isn't flushed; undoing it may fail as well.
FAULTS = ("", "", "short", "flush", "short, undo", "flush, undo")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("flush"), st.integers(1, 1500), st.sampled_from(FAULTS)),
        st.tuples(st.sampled_from(("kill", "kill and key", "seal")), st.just(0), st.just("")),
    ),
    max_size=25,
)


@contextmanager
def faulty(fault: str) -> Iterator[None]:
    """While it lasts the disk fails so."""
    write = os.write

    def short(file: int, data: Any) -> int:
        write(file, bytes(data[: len(data) // 2]))
        raise OSError(errno.EIO, "Input/output error")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        if "short" in fault:
            patch.setattr(os, "write", short)
        if "flush" in fault:
            patch.setattr(os, "fdatasync", refuse)
        if "undo" in fault:
            patch.setattr(os, "ftruncate", refuse)
        yield


def rows_of(numbers: list[int]) -> Rows:
    found = Rows()
    for i in numbers:
        found.add(i, f"L{i // 50}", False, (float(i),))
    return found


def read(folder: Path) -> list[int]:
    found: list[int] = []
    for number, name in segments(folder):
        track = Track(folder / name, number, cipher_of(KEY))
        if len(track):
            values = track.values(0, len(track))[:, 0]
            np.testing.assert_array_equal(values, track.columns.time.astype(np.float32))
        found += track.columns.time.tolist()
    return found


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_a_disk_that_fails_costs_no_row_doubles_none_and_keeps_the_order(
    steps: list[tuple[str, int, str]],
) -> None:
    """As the collector does: what a flush refused waits, and goes with what comes after it."""
    with TemporaryDirectory() as name:
        folder, key = Path(name) / "ring", None
        ring = Ring(folder, HEAD, QUOTA, cipher_of(key))
        next_, kept, waiting = 0, 0, list[int]()
        for step, count, fault in steps:
            if step == "flush":
                waiting += range(next_, next_ + count)
                next_ += count
                try:
                    with faulty(fault):
                        ring.append(rows_of(waiting))
                except OSError:
                    assert fault
                else:
                    kept, waiting = next_, []
            elif step == "seal":
                ring.seal_older()
            else:
                key = KEY if "key" in step else key
                ring.close()  # which writes nothing
                ring = Ring(folder, HEAD, QUOTA, cipher_of(key))
                # What it held is gone with it; but a flush that failed may be there in whole.
                assert kept <= ring.rows <= next_
                next_ = kept = ring.rows
                waiting = []
        found = read(folder)
        assert kept <= (found[-1] + 1 if found else 0) <= next_
        ring.append(rows_of([*waiting, next_]))  # the disk is well again
        again = read(folder)
        assert again == list(range(again[0], next_ + 1))  # but for what made room
        assert again[0] == 0 or len(again) > 3 * 1500
        assert rows_collected(folder) == ring.rows == next_ + 1
        ring.close()

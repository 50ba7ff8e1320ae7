"""New samples are counted without numpy, by what came since the last update."""

import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.config import EdgeConfig
from edge_runtime.sources.arrivals import NOTHING, Arrivals, Mark, _examples, _lines
from edge_runtime.sources.settings import Channel, DataSection, PluginSection
from qflare.host.config import ConfigFault, load
from tests.source_kit import fill_ring, motion, watch_channels


class Clock:
    """Both clocks of a source: the wall's is in the files' past, so that everything came later."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001  # a look takes a millisecond
        return self.now


def source(path: Path, kind: str, **more: object) -> tuple[Arrivals, Clock]:
    clock = Clock()
    return Arrivals(DataSection(path, kind, **more), clock), clock  # type: ignore[arg-type]


def old(path: Path) -> None:
    """A date of long ago, as a copy with dates has it, and settled."""
    os.utime(path, (1e9, 1e9))


def test_files_count_from_when_they_came_whatever_their_dates_say(tmp_path: Path) -> None:
    for name, rows in (("a", 10), ("b", 20)):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((rows, 3)), y=np.zeros(rows))
        old(tmp_path / f"{name}.npz")
    arrivals, clock = source(tmp_path, "npz-folder")
    assert arrivals.since(NOTHING) == 30
    mark = Mark(0, max(p.stat().st_ctime_ns for p in tmp_path.iterdir()) // 1_000_000 + 1)
    assert arrivals.since(mark) == 0
    while arrivals.mark().at_ms <= mark.at_ms:
        pass
    np.savez(tmp_path / "c.npz", x_train=np.zeros((7, 3)), x_test=np.zeros((99, 3)))
    old(tmp_path / "c.npz")
    clock.now += 10
    assert arrivals.since(mark) == 7


def test_between_two_looks_the_last_answer_holds(tmp_path: Path) -> None:
    arrivals, clock = source(tmp_path, "camera")
    assert arrivals.since(NOTHING) == 0
    (tmp_path / "a.jpg").write_bytes(b"x")
    old(tmp_path / "a.jpg")
    assert arrivals.since(NOTHING) == 0  # looking took 1 ms, so it is too early
    clock.now += 1.0
    assert arrivals.since(NOTHING) == 1
    assert arrivals.since(Mark(0, 10**15)) == 0  # another question has its own answer


def test_lines_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for text, lines in (("", 0), ("a,b\n", 0), ("a,b\n1,2\n3,4", 2), ("a\n1\n2\n", 2)):
        path.write_text(text)
        assert _lines(path) == lines
    old(path)
    assert source(tmp_path, "csv")[0].since(NOTHING) == 2


def test_collected_rows_count_by_the_ring(tmp_path: Path) -> None:
    settings = DataSection(
        tmp_path / "ring",
        "plugin",
        rate_hz=50,
        channels=watch_channels(),
        plugin=PluginSection("sensor"),
    )
    arrivals = Arrivals(settings, Clock())
    assert arrivals.mark().rows == 0
    fill_ring(settings, [(1_700_000_000_000_000, "", motion(700, 1))])
    assert arrivals.since(NOTHING) == 700
    mark = arrivals.mark()
    assert Mark.of(mark.counters()) == mark
    fill_ring(settings, [(1_700_000_100_000_000, "", motion(40, 1))])
    assert Arrivals(settings, Clock()).since(mark) == 40
    assert Mark.of({}) is None


@given(st.binary(max_size=300))
def test_a_damaged_archive_has_no_examples(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        path.write_bytes(data)
        assert _examples(path) == 0
        inside = io.BytesIO()
        with zipfile.ZipFile(inside, "w") as archive:
            archive.writestr("x.npy", b"\x93NUMPY" + data)
        path.write_bytes(inside.getvalue())
        assert _examples(path) >= 0


@pytest.mark.parametrize("head", [b"{'shape': (-1,)}", b"{'shape': ('a',)}", b"[]", b"9" * 90])
def test_a_head_that_says_nothing(head: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head)
    assert _examples(tmp_path / "a.npz") == 0


def test_the_daemon_stays_without_arrays() -> None:
    code = "import edge_runtime.sources.arrivals, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_cant_be_counted_is_no_gate(tmp_path: Path) -> None:
    assert source(tmp_path, "parquet", channels=(Channel("a"),))[0].since(NOTHING) is None
    file = tmp_path / "edge.toml"
    file.write_text(
        '[device]\nfleet = "f"\nname = "d"\nstate_dir = "s"\nkey = "k"\ncertificate = "c"\n'
        'owner_key = "o"\n[broker]\nurl = "mqtt://h"\n[data]\npath = "d"\nkind = "parquet"\n'
        "[gates.samples]\nnew = 5\n"
    )
    with pytest.raises(ConfigFault, match=r"gates.samples.new: new samples of kind parquet"):
        load(EdgeConfig, "edge", file, {})

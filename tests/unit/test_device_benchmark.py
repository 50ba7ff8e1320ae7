"""The device benchmark: what it reads of processes and connections, and how it judges."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.device import flower
from benchmarks.device.proxy import Proxy
from benchmarks.device.sampling import Reading, cpu, memory_of_tree, of_rounds, tree, written
from benchmarks.device.table import ROWS, missed, table
from qflare.faults import LocalFault

# A child that waits for a child of its own, which is busy, writes, and leaves the parent waiting.
_FAMILY = """
import os, subprocess, sys, time
busy = "s = sum(range(6_000_000)); f = open(sys.argv[1], 'wb'); f.write(bytes(2**20)); "
busy = "import os, sys; " + busy + "f.flush(); os.fsync(f.fileno())"
subprocess.run([sys.executable, "-c", busy, sys.argv[1]])
print("ready", flush=True)
subprocess.run(["sleep", "600"])
"""


def test_what_children_used_that_are_gone_counts_and_what_runs_is_found(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FAMILY, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        family = [process.pid]
        try:
            assert process.stdout is not None
            process.stdout.readline()
            while len(tree(process.pid)) < 2:
                pass
            family = tree(process.pid)
            assert cpu(process.pid) > 0.03
            assert memory_of_tree(process.pid)["Rss"] > 2**20
            if Path("/proc/self/io").exists() and written(process.pid):  # none on a tmpfs
                assert written(process.pid) >= 2**20
        finally:
            for pid in reversed(family):
                subprocess.run(["kill", "-9", str(pid)], check=False)
    assert cpu(process.pid) == written(process.pid) == 0
    assert memory_of_tree(process.pid) == {"Pss": 0, "Rss": 0, "Anonymous": 0}


def test_a_round_is_charged_with_all_but_its_training() -> None:
    used = Reading(at=40.0, cpu=3.0, written=8000, up=1000, down=2000) - Reading(0.0, 1.0, 0, 0, 0)
    figures = of_rounds(used, 4, 0.2)
    assert figures["cpu_s_per_round"] == 0.5
    assert figures["cpu_s_per_round_outside_training"] == pytest.approx(0.3)
    assert figures["seconds_per_round"] == 10.0
    assert figures["written_kb_per_round"] == 2.0
    assert (figures["bytes_up_per_round"], figures["bytes_down_per_round"]) == (250.0, 500.0)


def test_the_proxy_counts_both_ways_and_notes_the_first_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(2 * await reader.readexactly(3))
        await writer.drain()

    async def scene() -> Proxy:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
        assert proxy.answered is None
        writer.write(b"abc")
        assert await reader.readexactly(6) == b"abcabc"
        writer.close()
        proxy.close()
        server.close()
        return proxy

    proxy = asyncio.run(scene())
    assert (proxy.up, proxy.down) == (3, 6)
    assert proxy.answered is not None


def test_a_figure_beyond_its_bound_is_said_to_be_missed_and_one_at_it_is_not() -> None:
    figures = {row.name: row.most for row in ROWS if row.most is not None}
    assert missed(figures) == []
    assert missed(figures | {"install_mb": 120.5}) == ["install_mb"]
    result = {
        "machine": {"cores": 2},
        "job": "a job",
        "rounds": 3,
        "idle_s": 60.0,
        "flwr": "1",
        "figures": {"qflare": figures | {"install_mb": 120.5}, "flower": {"install_mb": 250.0}},
    }
    lines = {line[:30].strip(): line for line in table(result).splitlines()}
    assert lines["installed on arm64, MB"].split()[-4:] == ["120", "120.5", "250.0", "MISSED"]
    assert lines["start until ready, s"].split()[-3:] == ["1.50", "-", "met"]


def test_an_interpreter_without_flower_is_refused() -> None:
    with pytest.raises(LocalFault, match="--python-flower"):
        flower.version_of(Path("/nowhere/python"))
    with pytest.raises(LocalFault, match="--python-flower"):
        flower.version_of(Path("/bin/false"))

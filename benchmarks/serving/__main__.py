"""Ask a real server process over its socket, alone and from many connections, and count.

python -m benchmarks.serving [--seconds 3] [--json FILE]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.serving.client import ModelClient
from edge_runtime.serving.export import application_file
from edge_runtime.slots import SlotManifest, Slots
from qflare import zoo
from qflare.host.typed import tree_of
from qflare.names import Digest

ROOT = Path(__file__).parents[2]
MODELS = ("shuttle_autoencoder", "watch_cnn", "fashion_cnn", "fashion_transfer")


def put(slots: Slots, name: str) -> tuple[int, int]:
    """The zoo's model into the active slot; bytes of the trainable file and of the other."""
    it = zoo.load(name)
    file, model = application_file(it.tflite, it.weights), Digest.of(it.weights)
    says = it.manifest
    manifest = SlotManifest(
        model=str(model),
        graph=str(Digest.of(it.tflite)),
        file=str(Digest.of(file)),
        name=says.name,
        version=says.version,
        task=says.task,
        input=tree_of(says.input),
        output=list(says.output),
        classes=list(says.classes),
        batch=says.batch,
    )
    slots.stage(model, file, manifest)
    slots.activate(model, 1, time.time())
    return len(it.tflite), len(file)


@contextmanager
def server(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    config = folder / "edge.toml"
    config.write_text('[device]\nstate_dir = "state"\n[serving]\nsocket = "model.sock"\n')
    command = [sys.executable, "-m", "edge_runtime.serving", "--config", str(config)]
    environ = os.environ | {"PYTHONOPTIMIZE": "2"}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "model.sock").is_socket():
            assert process.poll() is None
            time.sleep(0.005)
        yield process
    finally:
        process.terminate()
        process.wait()


def pss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(path: Path, rows: Any, seconds: float, connections: int) -> dict[str, Any]:
    """Latencies as an application sees them, and how much is answered."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        mine = []
        with ModelClient(path) as model:
            while (began := time.perf_counter()) < end:
                model.infer(rows)
                mine.append(time.perf_counter() - began)
        latencies.extend(mine)

    threads = [threading.Thread(target=client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies.sort()
    count = len(latencies)
    return {
        "connections": connections,
        "rows": len(rows),
        "requests": count,
        "p50_ms": round(1000 * latencies[count // 2], 3),
        "p99_ms": round(1000 * latencies[count * 99 // 100], 3),
        "rows_per_s": round(count * len(rows) / seconds),
    }


def measure(name: str, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sizes = put(Slots(home / "state/model"), name)
        began = time.perf_counter()
        with server(home) as process:
            with ModelClient(home / "model.sock") as client:
                shape, batch = client.metadata()["input"]["shape"], client.metadata()["batch"]
                one = np.zeros((1, *shape), np.float32)
                client.infer(one)
                first = time.perf_counter() - began
                idle = pss_mb(process.pid)
            path, before = home / "model.sock", cpu_s(process.pid)
            runs = [
                ask(path, one, seconds, 1),
                ask(path, np.repeat(one, batch, axis=0), seconds, 1),
                ask(path, one, seconds, 8),
            ]
            requests = sum(run["requests"] for run in runs)
            with ModelClient(path) as client:
                use = client.status()["use"]
            return {
                "model": name,
                "trainable_bytes": sizes[0],
                "application_bytes": sizes[1],
                "start_to_first_answer_s": round(first, 2),
                "pss_mb": idle,
                "pss_after_mb": pss_mb(process.pid),
                "cpu_ms_per_request": round(1000 * (cpu_s(process.pid) - before) / requests, 3),
                "rows_per_run": use["rows_per_run"],
                "runs": runs,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each of the three loads")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    found = []
    print(f"{'model':20} {'PSS MB':>7} {'load':>16} {'p50 ms':>8} {'p99 ms':>8} {'rows/s':>8}")
    for name in MODELS:
        result = measure(name, options.seconds)
        found.append(result)
        for run in result["runs"]:
            load = f"{run['connections']} x {run['rows']} rows"
            print(
                f"{name:20} {result['pss_after_mb']:7} {load:>16} {run['p50_ms']:8} "
                f"{run['p99_ms']:8} {run['rows_per_s']:8}"
            )
    report = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "models": found,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

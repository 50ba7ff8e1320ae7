"""Measure the enclave's aggregation beside Flower's: `python -m benchmarks.aggregation`.

The enclave's way is the whole of it: parse, certificate, ML-DSA-65 verification, HPKE opening,
strict decoding, norm, exact addition. Flower's way is aggregation alone, from its own serialised
bytes. Everything runs in child processes, in turns, so that a busy machine hurts all alike.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

CODECS = ("q4", "q8", "q4z")
HERE = Path(__file__).parent
TURNS = 3
TARGET_RATIO, TARGET_MEMORY = 3.0, 1.10


def child(python: str, *arguments: object) -> dict[str, Any]:
    """Run one measurement with one BLAS thread and one heap, and return its JSON.

    One heap for both threads, because glibc's heaps per thread keep what the other could use.
    """
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [python, *map(str, arguments)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def machine() -> dict[str, object]:
    """What it was measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "Model"))
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_1min": os.getloadavg()[0],
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Take turns, then merge the lists of each way."""
    sizes = ("--params", args.params, "--updates", args.updates, "--repeats", args.repeats)
    enclave: dict[str, dict[str, Any]] = {}
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    flower: dict[str, Any] = {}
    for turn in range(TURNS):
        print(f"turn {turn + 1} of {TURNS}", file=sys.stderr)
        flower = child(args.flower_python, HERE / "flower.py", *sizes)
        for way, found in flower["updates_per_s"].items():
            name = way if way == "plain_numpy" else f"flower {way}"
            rates.setdefault(name, []).extend(found)
            cpu.setdefault(name, []).extend(flower["cpu_ms_per_update"][way])
        for codec in CODECS:
            enclave[codec] = child(
                sys.executable, "-m", "benchmarks.aggregation.throughput", *sizes, "--codec", codec
            )
            for threads, found in enclave[codec]["updates_per_s"].items():
                name = f"qflare {codec}, {threads} thread{'s' * (threads != '1')}"
                rates.setdefault(name, []).extend(found)
                cpu.setdefault(name, []).extend(enclave[codec]["cpu_ms_per_update"][threads])
    peaks = [
        child(
            sys.executable,
            *("-m", "benchmarks.aggregation.memory", "--codec", "q4"),
            *("--params", args.params, "--updates", count),
        )
        for count in (20, args.memory_updates)
    ]
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ours = medians["qflare q4, 2 threads"]
    times = {name: ours / rate for name, rate in medians.items() if name.startswith("flower")}
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "params": args.params,
        "updates": args.updates,
        "median_updates_per_s": medians,
        "all_updates_per_s": rates,
        "median_cpu_ms_per_update": {name: statistics.median(used) for name, used in cpu.items()},
        "unknown_certificates_updates_per_s": {
            codec: found["updates_per_s_unknown_certificates"] for codec, found in enclave.items()
        },
        "codec_bytes": {codec: found["codec_bytes"] for codec, found in enclave.items()},
        "sealed_bytes": {codec: found["sealed_bytes"] for codec, found in enclave.items()},
        "flwr": flower["flwr"],
        "flower_peak_mb": flower["peak_mb"],
        "enclave_peak_mb": {str(peak["updates"]): peak["peak_mb"] for peak in peaks},
        "times_flower": times,
        "memory_growth": peaks[1]["peak_mb"] / peaks[0]["peak_mb"],
    }


def table(result: dict[str, Any]) -> str:
    """The measurement for people."""
    lines = [
        " · ".join(f"{key} {value}" for key, value in result["machine"].items()),
        f"{result['updates']} updates of {result['params']:,} parameters, flwr {result['flwr']}",
        f"{'way':<28}{'updates/s':>10}{'lowest':>9}{'highest':>9}{'CPU ms each':>13}",
    ]
    for name, median in result["median_updates_per_s"].items():
        found = result["all_updates_per_s"][name]
        used = result["median_cpu_ms_per_update"][name]
        lines.append(
            f"{name:<28}{median:>10,.0f}{min(found):>9,.0f}{max(found):>9,.0f}{used:>13.2f}"
        )
    float32 = 4 * result["params"]
    for codec, length in result["codec_bytes"].items():
        sealed = result["sealed_bytes"][codec]
        lines.append(f"{codec}: float32 is {float32 / length:.2f} x as long, sealed {sealed:,} B")
    peaks = ", ".join(f"{n} updates {mb:.0f} MB" for n, mb in result["enclave_peak_mb"].items())
    lines += [
        f"enclave peak: {peaks} ({result['memory_growth']:.3f} x, want <= {TARGET_MEMORY});"
        f" flower {result['flower_peak_mb']:.0f} MB",
        *(
            f"q4 on 2 threads is {times:.2f} x {name} (want >= {TARGET_RATIO})"
            for name, times in result["times_flower"].items()
        ),
    ]
    return "\n".join(lines)


def main() -> int:
    """Exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aggregation", description=__doc__)
    parser.add_argument("--params", type=int, default=1_000_000)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help=f"in each of {TURNS} turns")
    parser.add_argument("--memory-updates", type=int, default=2000)
    parser.add_argument("--flower-python", default=sys.executable, help="one that has flwr")
    parser.add_argument("--json", type=Path, help="write everything here as well")
    args = parser.parse_args()
    result = measure(args)
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    slow = min(result["times_flower"].values()) < TARGET_RATIO
    return int(slow or result["memory_growth"] > TARGET_MEMORY)


if __name__ == "__main__":
    sys.exit(main())

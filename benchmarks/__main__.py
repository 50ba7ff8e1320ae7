"""Run every benchmark, one after the other, and leave their JSON in benchmarks/results."""

import subprocess
import sys
from pathlib import Path

NAMES = (
    "simulate",
    "wire",
    "appraisal",
    "device",
    "serving",
    "aggregation",
    "hardening",
    "training",
    "zoo",
    "reference",
)


def main() -> int:
    """Return the number of benchmarks that failed."""
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    failed = 0
    for name in NAMES:
        print(f"\n== {name} ==", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if name == "reference":  # prints its JSON instead of writing it
            done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=False)
            (results / "reference.json").write_bytes(done.stdout)
            print(f"wrote {results / 'reference.json'}")
        else:
            done = subprocess.run([*command, "--json", str(results / f"{name}.json")], check=False)
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""Child process: updates per second through the admission desk, before and after the lock-down."""

import argparse

from benchmarks.aggregation.round import OpenRound, report
from benchmarks.aggregation.throughput import run
from enclave.hardening import lock_down


def main() -> None:
    """Measure as often as asked, locked down first or not at all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=int, required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--locked", action="store_true")
    args = parser.parse_args()
    round_ = OpenRound(args.params, "q4", args.updates)
    requests = list(round_.requests())
    layers = lock_down() if args.locked else ()
    run(round_, requests, 2)
    took = [run(round_, requests, 2)[0] for _ in range(args.repeats)]
    report({"layers": layers, "updates_per_s": [args.updates / seconds for seconds in took]})


if __name__ == "__main__":
    main()

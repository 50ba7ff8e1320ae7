"""Child process: updates per second through the enclave's own admission desk."""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.aggregation.round import OpenRound, report
from qflare.enclave_wire import Admit


def run(round_: OpenRound, requests: list[Admit], threads: int) -> float:
    """Seconds from sealed bytes to the weighted mean."""
    desk = round_.desk()
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for _ in pool.map(desk.admit, requests):
            pass
        desk.mean()
        took = time.perf_counter() - start
    assert desk.count == len(requests)
    return took


def main() -> None:
    """Measure one codec; the first run, with unknown certificates, is told apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=int, required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--codec", required=True)
    parser.add_argument("--repeats", type=int, required=True)
    args = parser.parse_args()
    round_ = OpenRound(args.params, args.codec, args.updates)
    requests = list(round_.requests())
    first = run(round_, requests, 2)
    runs: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(args.repeats):
        for threads, rates in runs.items():
            rates.append(args.updates / run(round_, requests, threads))
    report(
        {
            "updates_per_s": runs,
            "updates_per_s_unknown_certificates": args.updates / first,
            "codec_bytes": round_.codec_bytes,
            "sealed_bytes": len(requests[0].update),
        }
    )


if __name__ == "__main__":
    main()

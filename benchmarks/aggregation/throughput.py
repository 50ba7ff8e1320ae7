"""Child process: updates per second through the enclave's own admission desk."""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.aggregation.round import OpenRound, report
from qflare.enclave_wire import Admit


def run(round_: OpenRound, requests: list[Admit], threads: int) -> tuple[float, float]:
    """Seconds, and seconds of processor time, from sealed bytes to the weighted mean."""
    desk = round_.desk()
    with ThreadPoolExecutor(threads) as pool:
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in pool.map(desk.admit, requests):
            pass
        desk.mean()
        took = time.perf_counter() - start, time.process_time() - start_cpu
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
    first, _ = run(round_, requests, 2)
    runs: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(args.repeats):
        for threads in runs:
            took, used = run(round_, requests, threads)
            runs[threads].append(args.updates / took)
            cpu[threads].append(1e3 * used / args.updates)
    report(
        {
            "updates_per_s": runs,
            "cpu_ms_per_update": cpu,
            "updates_per_s_unknown_certificates": args.updates / first,
            "codec_bytes": round_.codec_bytes,
            "sealed_bytes": len(requests[0].update),
        }
    )


if __name__ == "__main__":
    main()

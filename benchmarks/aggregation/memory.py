"""Child process: peak memory while updates are admitted by two threads, made one by one."""

import argparse
import resource
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from benchmarks.aggregation.round import OpenRound, report
from qflare.enclave_wire import Admitted

_THREADS = 2


def main() -> None:
    """At most a few requests exist at any time, as in the enclave's server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=int, required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--codec", required=True)
    args = parser.parse_args()
    round_ = OpenRound(args.params, args.codec, args.updates)
    desk, waiting = round_.desk(), deque[Future[Admitted]]()
    with ThreadPoolExecutor(_THREADS) as pool:
        for request in round_.requests():
            waiting.append(pool.submit(desk.admit, request))
            if len(waiting) > _THREADS:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()
    desk.mean()
    desk.root()
    assert desk.count == args.updates
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report({"updates": args.updates, "peak_mb": peak / 1024})


if __name__ == "__main__":
    main()

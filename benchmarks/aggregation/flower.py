"""Child process: Flower's FedAvg from its own serialised bytes, without any cryptography.

Needs `flwr` and numpy alone, so that it can run under the interpreter of another environment.
Both of Flower's code paths are measured: `FedAvg.aggregate_fit` of flwr.server, and inflation of
the pulled objects with the aggregation of records that FedAvg of flwr.serverapp calls. A plain
numpy mean over raw float32 buffers sets the bound.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents


def fit_results(params: int, updates: int) -> Callable[[], object]:
    """What a server of flwr.server holds when a round ends, and its aggregation."""
    rng = np.random.default_rng(0)
    results = []
    for number in range(updates):
        parameters = ndarrays_to_parameters([rng.standard_normal(params, np.float32)])
        status = Status(Code.OK, "")
        results.append((None, FitRes(status, parameters, 1 + number % 1000, {})))
    strategy = FedAvg()
    return lambda: strategy.aggregate_fit(1, results, [])


def records(params: int, updates: int) -> Callable[[], object]:
    """The same for flwr.serverapp: the pulled objects' bytes by id, inflated, then aggregated."""
    rng = np.random.default_rng(0)
    pulled: list[tuple[str, dict[str, bytes]]] = []
    for number in range(updates):
        arrays = ArrayRecord({"w": Array(rng.standard_normal(params, np.float32))})
        metrics = MetricRecord({"num-examples": 1 + number % 1000})
        reply = RecordDict({"arrays": arrays, "metrics": metrics})
        contents = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
        pulled.append((reply.object_id, contents))

    def aggregate() -> object:
        held = [inflate_object_from_contents(name, dict(parts)) for name, parts in pulled]
        return aggregate_arrayrecords(held, "num-examples")

    return aggregate


def plain(params: int, updates: int) -> Callable[[], object]:
    """A float32 weighted mean over raw buffers, in place."""
    rng = np.random.default_rng(0)
    buffers = [rng.standard_normal(params, np.float32).tobytes() for _ in range(updates)]
    weights = [np.float32(1 + number % 1000) for number in range(updates)]

    def mean() -> object:
        total, scratch = np.zeros(params, np.float32), np.empty(params, np.float32)
        for buffer, weight in zip(buffers, weights, strict=True):
            np.multiply(np.frombuffer(buffer, np.float32), weight, out=scratch)
            np.add(total, scratch, out=total)
        return total / sum(weights)

    return mean


def main() -> None:
    """Print one JSON object: a list of rates for each way, and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=int, required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    args = parser.parse_args()
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for name, make in (("fit", fit_results), ("records", records), ("plain_numpy", plain)):
        aggregate = make(args.params, args.updates)
        aggregate()
        rates[name], cpu[name] = [], []
        for _ in range(args.repeats):
            start, start_cpu = time.perf_counter(), time.process_time()
            aggregate()
            rates[name].append(args.updates / (time.perf_counter() - start))
            cpu[name].append(1e3 * (time.process_time() - start_cpu) / args.updates)
        del aggregate
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"flwr": version("flwr"), "updates_per_s": rates, "cpu_ms_per_update": cpu}
    print(json.dumps(found | {"peak_mb": peak}))


if __name__ == "__main__":
    main()

"""ServerApp: FedAvg over both nodes, without evaluation; what the clients measured goes to JSON."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run configuration `weights` (npz), `rounds`, `result` (file to write)."""
    config, rounds = context.run_config, []
    weights = np.load(str(config["weights"]))

    def keep(replies, _key):  # type: ignore[no-untyped-def]
        said = [dict(reply["metrics"]) for reply in replies]
        rounds.append({"at": time.time(), "replies": said})
        return MetricRecord({"replies": len(said)})

    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=2,
        min_available_nodes=2,
        train_metrics_aggr_fn=keep,
    )
    began = time.time()
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(weights[name]) for name in weights.files}),
        num_rounds=int(config["rounds"]),
    )
    target = Path(str(config["result"]))
    target.with_suffix(".new").write_text(json.dumps({"began": began, "rounds": rounds}))
    target.with_suffix(".new").replace(target)

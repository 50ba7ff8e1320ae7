"""Train the demo's fleet in plain float arithmetic: `python -m benchmarks.reference [--json]`."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from edge_runtime.reference import from_workdir, table
from qflare import zoo
from qflare.simulate.data import watch, write_device


def main() -> int:
    plan = zoo.recommended_schedule("watch_cnn")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference", description=__doc__)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=plan.rounds)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", action="store_true", help="leave the test windows alone")
    parser.add_argument("--local-epochs", type=int, default=plan.local_epochs)
    parser.add_argument("--learning-rate", type=float, default=plan.learning_rate)
    parser.add_argument("--final-fraction", type=float, default=plan.learning_rate_final_fraction)
    parser.add_argument("--server-momentum", type=float, default=plan.server_momentum)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "qflare")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    args = parser.parse_args()
    schedule = replace(
        plan,
        rounds=args.rounds,
        local_epochs=args.local_epochs,
        learning_rate=args.learning_rate,
        learning_rate_final_fraction=args.final_fraction,
        server_momentum=args.server_momentum,
    )
    prepare = partial(watch.prepare, validation=args.validation)
    with tempfile.TemporaryDirectory() as folder:
        for data in prepare(args.cache, args.devices, args.seed):
            write_device(Path(folder) / f"{data.device}.npz", data)
        result = from_workdir(Path(folder), "watch_cnn", schedule, seed=args.seed)
    if args.json:
        print(json.dumps({"schedule": asdict(schedule), **asdict(result)}))
    else:
        norm = max(result.update_norm_by_round)
        print(table(result))
        print(f"largest update norm {norm:.2f}, local training {result.training_s:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

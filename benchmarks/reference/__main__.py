"""Train a fleet of the zoo in plain float arithmetic: `python -m benchmarks.reference`."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path

from benchmarks.zoo.race import PREPARE
from edge_runtime.reference import from_workdir, table
from qflare import zoo
from qflare.schedule import Schedule
from qflare.simulate.data.cache import cache_dir

SETTINGS = [f.name for f in fields(Schedule)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference", description=__doc__)
    parser.add_argument("--model", choices=zoo.MODELS, default="watch_cnn")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", action="store_true", help="leave the test parts alone")
    for name in SETTINGS:
        kind = int if name in ("rounds", "local_epochs") else float
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="other than the model's")
    parser.add_argument("--cache", type=Path, help="where prepared data is kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    args = parser.parse_args()
    known = zoo.entry(args.model)
    asked = {name: getattr(args, name) for name in SETTINGS}
    schedule = replace(known.schedule, **{k: v for k, v in asked.items() if v is not None})
    cache = args.cache or cache_dir(Path("runs"))
    prepare = PREPARE[known.dataset]
    with tempfile.TemporaryDirectory() as folder:
        for data in prepare(cache, args.devices, args.seed, validation=args.validation):
            data.write(Path(folder) / f"{data.device}.npz")
        result = from_workdir(Path(folder), args.model, schedule, seed=args.seed)
    if args.json:
        print(json.dumps({"schedule": asdict(schedule), **asdict(result)}))
    else:
        norm = max(result.update_norm_by_round)
        print(table(result))
        print(f"largest update norm {norm:.2f}, local training {result.training_s:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

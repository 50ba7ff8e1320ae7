"""Hold each zoo model's federated training against central training: `python -m benchmarks.zoo`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean

from benchmarks.zoo import curves
from benchmarks.zoo.race import CENTRAL_RATE, Race, centrally, run
from qflare import zoo
from qflare.faults import LocalFault
from qflare.simulate.data.cache import cache_dir

ROUNDS = {"watch_cnn": 60}  # where more than the demo's are held to account
WITHIN = {"watch_cnn": 0.04, "watch_gru": 0.04}  # else 0.02


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=zoo.MODELS, default=zoo.MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rounds", type=int, help="other than the usual")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--validation", action="store_true", help="leave the test parts alone")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write zoo-<model>.svg")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    found, missed = {}, 0
    print(f"{'model':<20} {'seed':>4} {'rounds':>6} {'federated':>9} {'central':>8} {'gap':>6}")
    for name in args.models:
        try:
            races = [_race(name, seed, args) for seed in args.seeds]
        except LocalFault as fault:
            print(f"{name:<20} left out: {fault}")
            continue
        gap, target = mean(race.gap for race in races), WITHIN.get(name, 0.02)
        missed += gap > target
        judged = "ok" if gap <= target else "MISSED"
        print(f"{name:<20} mean gap {100 * gap:.1f} points, at most {100 * target:.0f}: {judged}")
        found[name] = {
            "gap": gap,
            "target": target,
            "seeds": {str(s): asdict(r) for s, r in zip(args.seeds, races, strict=True)},
        }
        if args.pictures:
            path = args.pictures / f"zoo-{name.replace('_', '-')}.svg"
            path.write_text(curves.draw(name, races), encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if missed else 0


def _race(name: str, seed: int, args: argparse.Namespace) -> Race:
    known = zoo.entry(name)
    plan = replace(known.schedule, rounds=args.rounds or ROUNDS.get(name, known.schedule.rounds))
    race = run(
        name,
        plan,
        centrally(plan, CENTRAL_RATE[name]),
        cache_dir(Path("runs")),
        seed=seed,
        devices=args.devices,
        validation=args.validation,
    )
    print(
        f"{name:<20} {seed:>4} {plan.rounds:>6} {_words(race.federated.score):>9} "
        f"{_words(race.central.score):>8} {100 * race.gap:>6.1f}",
        flush=True,
    )
    return race


def _words(scores: Sequence[float]) -> str:
    return f"{100 * scores[-1]:.1f} %"


if __name__ == "__main__":
    sys.exit(main())

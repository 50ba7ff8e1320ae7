"""Child process: TensorFlow or PyTorch from nothing to the end of its first training step."""

import argparse
import json
import time
from importlib import import_module

from benchmarks.training.models import MODELS
from benchmarks.training.worker import SIDES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--model", choices=MODELS, required=True)
    args = parser.parse_args()
    module, model = import_module(f"benchmarks.training.side_{args.side}"), MODELS[args.model]
    side = module.Side(model, module.variants(model)[0], 1, "")
    side.reset()
    side.step(0)
    print(json.dumps({"first_step_at": time.monotonic()}))


if __name__ == "__main__":
    main()

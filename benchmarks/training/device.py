"""Child process: a device that trains one model file, with the runtime and numpy alone.

Says when the first step was done, by the system's monotonic clock, and what is resident after
many more. `--file MODEL.tflite [--steps N]`
"""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.training import golden_run
from benchmarks.training.worker import resident
from qflare.host.model.file import read_model_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=0, help="after the first")
    args = parser.parse_args()
    model = read_model_file(args.file)
    golden_run.losses(model, 1)
    first = time.monotonic()
    if args.steps:
        golden_run.losses(model, args.steps)
    foreign = [name for name in ("tensorflow", "torch", "keras") if name in sys.modules]
    assert not foreign, foreign
    print(json.dumps({"first_step_at": first, **resident()}))


if __name__ == "__main__":
    main()

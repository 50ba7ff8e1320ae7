"""`qflare model build`: options, progress and what is printed.

TensorFlow is imported only when the command runs, so that the help costs nothing.
"""

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from qflare.authoring.options import (
    BATCH_NORMS,
    OPTIMISERS,
    TASKS,
    BuildOptions,
    InputSchema,
    read_schema,
)
from qflare.authoring.quiet import quiet
from qflare.authoring.summary import describe, summary
from qflare.faults import LocalFault
from qflare.host.files import write_atomic
from qflare.host.model import read_model

EXAMPLES: Final = """\
examples:
  qflare model build my_model.py:make_model --task classification -o model.tflite
  qflare model build my_model.py --task classification --schema watch/schema.toml -o model.tflite
  qflare model build my_model.py --task autoencoder --optimizer adam -o model.tflite
  qflare model build my_model.py --task classification --personal head -o model.tflite
  qflare model build my_model.py --task classification --private --batch-norm frozen -o m.tflite

docs/models.md says which layers train, what batch normalisation means to a fleet, and more.
"""


def add_build(verbs: Any) -> None:
    """Register the command with the sub-commands of `qflare model`."""
    parser = verbs.add_parser(
        "build",
        help="turn a Keras model into a model file that trains on devices",
        description="""\
Turn a Keras model (Sequential or functional) into one .tflite that trains, evaluates
and infers with TFLite's builtin operators, and says of itself what it is. It is written
only after it trained a golden batch as Keras does. Progress goes to standard error.""",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="FILE.py[:NAME]", help="a function without arguments, or a Keras model "
        "(default name: make_model); or package.module:NAME")  # fmt: skip
    add("--task", required=True, choices=TASKS, help="what it learns")
    add("-o", "--output", type=Path, required=True, metavar="FILE.tflite", help="where it goes")
    add("--loss", help="mse, mae or huber of a regression or autoencoder (default mse)")
    add("--optimizer", choices=OPTIMISERS, default="momentum", help="(default %(default)s)")
    add("--momentum", type=float, default=0.9, help="of --optimizer momentum (%(default)s)")
    add("--batch", type=int, default=16, help="examples of a step (default %(default)s)")
    add("--schema", type=Path, metavar="FILE.toml", help="input and classes, as `qflare data "
        "import` writes them")  # fmt: skip
    add("--classes", type=_names, default=(), metavar="A,B,C", help="names, in the order of "
        "their numbers")  # fmt: skip
    add("--class-weights", type=_numbers, default=(), metavar="X,Y,Z", help="what an example of "
        "each class counts in the loss")  # fmt: skip
    add("--personal", nargs="+", default=[], metavar="LAYER", help="layers whose weights never "
        "leave the device")  # fmt: skip
    add("--batch-norm", choices=BATCH_NORMS, default="average", help="moving statistics of batch "
        "normalisation: averaged over the fleet, local to each device (with its other weights), or "
        "frozen (default %(default)s)")  # fmt: skip
    add("--cache-features", action="store_true", help="compute what frozen first layers give "
        "once per example")  # fmt: skip
    add("--private", action="store_true", help="clip each example's gradient, for DP-SGD")
    add("--seed", type=int, default=0, help="of initial weights whose initialisers have none "
        "(default %(default)s)")  # fmt: skip
    add("--name", help="of the model (default: that of the output file)")
    add("--version", type=int, default=1, help="of the model (default %(default)s)")
    add("--licence", default="not stated", help="of the weights (default: %(default)s)")
    add("--provenance", default="", help="where the weights come from")
    add("--json", action="store_true", help="print one JSON object on standard output, alone")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; progress goes to standard error."""
    options = build_options(arguments)
    if not arguments.output.resolve().parent.is_dir():
        raise LocalFault(f"{arguments.output}: no such folder; make it first")
    source = Path(arguments.model.rpartition(":")[0] or arguments.model)
    if source.suffix == ".py" and not source.is_file():
        raise LocalFault(f"{source}: no such file; name the model as my_model.py:make_model")
    report = _progress()
    report("loading TensorFlow")
    load_model, build_model = _load_tensorflow()
    report(f"running {arguments.model}")
    data = build_model(load_model(arguments.model, arguments.seed), options, report)
    try:
        write_atomic(arguments.output, data, mode=0o644)
    except OSError as error:
        raise LocalFault(f"{arguments.output}: {error.strerror}") from None
    report("done")
    found = summary(read_model(data), arguments.output)
    folder = arguments.schema.parent if arguments.schema else None
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(describe(found, folder)))
    return 0


def build_options(arguments: argparse.Namespace) -> BuildOptions:
    """The options that the command line and the schema state; LocalFault if they don't fit."""
    schema, classes = InputSchema(), tuple[str, ...]()
    if arguments.schema is not None:
        schema, classes = read_schema(arguments.schema)
    if arguments.task in ("regression", "autoencoder"):
        classes = ()  # a data set may have labels that this model has no use for
    name = arguments.name or re.sub(r"[^a-z0-9_-]+", "_", arguments.output.stem.lower()).strip("_-")
    return BuildOptions(
        task=arguments.task,
        loss=arguments.loss,
        optimiser=arguments.optimizer,
        momentum=arguments.momentum,
        batch=arguments.batch,
        name=name or "model",
        version=arguments.version,
        classes=tuple(arguments.classes) or classes,
        class_weights=tuple(arguments.class_weights),
        personal=tuple(arguments.personal),
        batch_norm=arguments.batch_norm,
        cache_features=arguments.cache_features,
        private=arguments.private,
        input=schema,
        licence=arguments.licence,
        provenance=arguments.provenance,
        made_by=_made_by(arguments),
    )


def _made_by(arguments: argparse.Namespace) -> str:
    """The command, without the folders of the machine it ran on."""
    words = ["qflare", "model", "build", Path(arguments.model).name, "--task", arguments.task]
    values = {
        "--loss": arguments.loss,
        "--optimizer": arguments.optimizer,
        "--momentum": arguments.momentum if arguments.optimizer == "momentum" else None,
        "--batch": arguments.batch,
        "--schema": arguments.schema.name if arguments.schema else None,
        "--batch-norm": None if arguments.batch_norm == "average" else arguments.batch_norm,
        "--seed": arguments.seed or None,
    }
    for option, value in values.items():
        words += [] if value is None else [option, str(value)]
    words += ["--personal", *arguments.personal] if arguments.personal else []
    words += ["--cache-features"] if arguments.cache_features else []
    words += ["--private"] if arguments.private else []
    return shlex.join(words)


def _load_tensorflow() -> tuple[Callable[[str, int], Any], Callable[..., bytes]]:
    """Import what needs TensorFlow, with its chatter kept in."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever keras.json says
    try:
        with quiet():
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            tf.zeros(1)  # it looks for GPUs only now, and says so
            from qflare.authoring.build import build_model
            from qflare.authoring.load import load_model
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("tensorflow", "keras", "flatbuffers"):
            raise
        raise LocalFault(
            f"building a model needs {missing.name}, which devices don't; "
            "run: pip install 'qflare[authoring]'"
        ) from None
    return load_model, build_model


def _progress() -> Callable[[str], None]:
    started = time.monotonic()

    def report(what: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {what}", file=sys.stderr, flush=True)

    return report


def _names(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError("give names with commas between")
    return found


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError("give numbers with commas between") from None

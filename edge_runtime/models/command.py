"""`qflare model`: everything that a person does with a model file."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_runtime.models import benching, checking, comparison, inspection, text
from edge_runtime.models.child import Limits
from edge_runtime.models.graph import read_graph
from edge_runtime.models.source import REMEDY, open_model
from qflare.faults import LocalFault, PeerFault

_AUTHORING = "qflare.authoring.command"
_BUDGET_S = 5.0  # for the repetitions of one call
UNUSABLE = 2  # the exit code for wrong usage, and for a file that can't be read

_GROUP = """\
A model is one .tflite file. These commands take any of them, also one that was made elsewhere.

exit codes: 0 all is well; 1 findings, a difference, or no model built; 2 wrong usage,
or a file that can't be read (for check, one that is no model is a finding)
"""
_Verbs = Any  # argparse's type isn't generic at run time
_Run = Callable[[argparse.Namespace], int]


def add_parser(commands: _Verbs) -> None:
    """Add `model` and its sub-commands."""
    group = commands.add_parser(
        "model",
        help="build, check, look into, time and compare model files",
        description=_GROUP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_build(verbs)
    inspect = _verb(
        verbs,
        "inspect",
        _inspect,
        "show what is in a model file",
        "Show the manifest in words, parameters, signatures, operators, sizes and memory. The "
        "file is only read, never run.",
        "qflare model inspect model.tflite\n  qflare model inspect model.tflite --json | jq .sizes",
    )
    inspect.add_argument("file", type=Path, help="a .tflite file")
    inspect.add_argument("--all", action="store_true", help="show long lists in full")
    check = _verb(
        verbs,
        "check",
        _check,
        "say what is wrong with a model file, and try it",
        "Read the file, then train, evaluate and reset the model for a moment, in a process of its "
        "own, so that an interpreter that crashes is a finding like others. That process is no "
        "sandbox: of a file that you don't trust, ask for --static.",
        "qflare model check model.tflite\n  qflare model check made_elsewhere.tflite --static",
        "exit code: 1 if there is an error; with --strict, also if there is a warning",
    )
    check.add_argument("file", type=Path, help="a .tflite file")
    check.add_argument("--static", action="store_true", help="only read the file, never run it")
    check.add_argument("--strict", action="store_true", help="take warnings as errors")
    _add_limits(check)
    bench = _verb(
        verbs,
        "bench",
        _bench,
        "time a model here, and estimate it for boards",
        "Time training steps, evaluation and inference on this machine, in processes of their own, "
        "and weigh the process. Then say what a round would cost, in seconds and bytes, here and "
        "on each board that has a profile. Measure on an idle machine.",
        "qflare model bench model.tflite\n"
        "  qflare model bench model.tflite --examples 2000 --epochs 5 --sources",
    )
    bench.add_argument("file", type=Path, help="a .tflite file")
    for option, default, what in (
        ("--examples", 500, "examples that a device trains on"),
        ("--epochs", 3, "epochs of a round"),
        ("--validation", 100, "examples that it only evaluates, before and after"),
        ("--repeat", 200, "repetitions of each call, at most"),
    ):
        bench.add_argument(option, type=_count, default=default, help=f"{what} (%(default)d)")
    bench.add_argument("--sources", action="store_true", help="say what the estimates rest on")
    _add_limits(bench)
    diff = _verb(
        verbs,
        "diff",
        _diff,
        "compare two model files",
        "Compare manifests, parameters, initial values, signatures, operators and sizes, and say "
        "whether a fleet could move from the first to the second and keep what it learned. The "
        "exit code is 0 only if the files are the same, byte for byte.",
        "qflare model diff old.tflite new.tflite",
    )
    diff.add_argument("a", type=Path, help="a .tflite file")
    diff.add_argument("b", type=Path, help="another")


def _add_build(verbs: _Verbs) -> None:
    """`build` belongs to authoring, which an install need not have."""
    try:
        authoring = import_module(_AUTHORING)
    except ModuleNotFoundError as missing:
        if not _AUTHORING.startswith(missing.name or "?"):
            raise
    else:
        authoring.add_build(verbs)


def _verb(
    verbs: _Verbs, name: str, run: _Run, short: str, long: str, examples: str, codes: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=short,
        description="\n".join(text.words(long, 0)),
        epilog=f"examples:\n  {examples}" + (f"\n\n{codes}" if codes else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_guarded(run))
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = Limits()
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=limits.seconds,
        help="end it after this long (%(default)g)",
    )
    parser.add_argument(
        "--memory",
        type=_positive,
        default=limits.memory >> 20,
        metavar="MIB",
        help="memory that the model may take beside the interpreter's own, in MiB (%(default)d)",
    )


def _limits(arguments: argparse.Namespace) -> Limits:
    return Limits(arguments.seconds, int(arguments.memory * 2**20))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("want a positive number")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10**9:
        raise argparse.ArgumentTypeError("want a whole number from 1 on")
    return value


def _guarded(run: _Run) -> _Run:
    """Say what is wrong with a file, and leave by the exit code of that."""

    def guarded(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except LocalFault as fault:
            print(f"qflare: {fault}", file=sys.stderr)
            return UNUSABLE

    return guarded


def _show(arguments: argparse.Namespace, report: dict[str, Any], lines: list[str]) -> None:
    try:
        print(json.dumps(report, indent=2) if arguments.json else "\n".join(lines), flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open(path: Path) -> memoryview:
    """The bytes of a TFLite file; LocalFault names the path and the remedy if it is none."""
    view = open_model(path)
    try:
        read_graph(view)
    except PeerFault as fault:
        raise LocalFault(f"{path}: {fault.detail}; {REMEDY}") from None
    return view


def _inspect(arguments: argparse.Namespace) -> int:
    report = inspection.inspect(str(arguments.file), _open(arguments.file))
    _show(arguments, report, inspection.describe(report, arguments.all))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    view = open_model(arguments.file)
    report = checking.check(arguments.file, view, _limits(arguments), run=not arguments.static)
    _show(arguments, report, checking.describe(report))
    bad = ("error", "warning") if arguments.strict else ("error",)
    return 1 if any(finding["severity"] in bad for finding in report["findings"]) else 0


def _bench(arguments: argparse.Namespace) -> int:
    view = _open(arguments.file)
    load = benching.Load(arguments.examples, arguments.epochs, arguments.validation)
    report = benching.bench(
        arguments.file, view, _limits(arguments), load, arguments.repeat, _BUDGET_S
    )
    _show(arguments, report, benching.describe(report, arguments.sources))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    paths = (arguments.a, arguments.b)
    names = (str(arguments.a), str(arguments.b))
    report = comparison.compare(names, (_open(paths[0]), _open(paths[1])))
    _show(arguments, report, comparison.describe(report))
    return 0 if report["identical"] else 1

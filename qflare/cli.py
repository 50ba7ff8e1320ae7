"""The `qflare` command: sub-commands for people; the daemons have commands of their own.

Rooms add sub-commands by the entry-point group `qflare.commands`, so that this, the bottom,
imports none of them, and an install of one extra offers what that extra can do.
"""

import argparse
import io
import json
import os
import signal
import sys
from importlib.metadata import EntryPoint, entry_points, packages_distributions
from pathlib import Path
from typing import Any

from qflare import __version__
from qflare.faults import LocalFault
from qflare.host import config, config_show
from qflare.host.config import ConfigFault, Settings
from qflare.simulate.importer import command as importing

_Commands = Any  # argparse's type isn't generic at run time
OUR_IMPORT_NAMES = ("qflare", "edge_runtime", "coordinator", "enclave", "firmware_config")
# Rooms, and the extra that brings what each imports; the first that fits counts.
EXTRAS = (
    ("qflare.simulate", "demo"),
    ("edge_runtime.provision", "provision"),
    ("edge_runtime", "edge"),
    ("coordinator", "coordinator"),
)
SIMULATE = EntryPoint("simulate", "qflare.simulate.command:add_parser", "qflare.commands")
EXAMPLES = """\
examples:
  qflare simulate                                   train on a simulated fleet on this machine
  qflare data import FILE.csv --label COLUMN -o FOLDER    bring your own recordings
  qflare model build my_model.py --task classification -o model.tflite    and your own model
  qflare config show coordinator --file coordinator.toml
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code (78 for a wrong configuration)."""
    _make_printable()
    parser = argparse.ArgumentParser(
        prog="qflare",
        description="Quantum-safe federated learning for fleets of edge devices.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qflare {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add(commands, SIMULATE)
    importing.add_parser(commands)
    _add_config(commands)
    for point in sorted(entry_points(group="qflare.commands"), key=lambda point: point.name):
        _add(commands, point)
    arguments = parser.parse_args(argv)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see __main__
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        refuse_intruders()
        return int(arguments.run(arguments))
    except LocalFault as fault:
        print(f"qflare: {fault}", file=sys.stderr)
        return fault.exit_code if isinstance(fault, ConfigFault) else 1
    except KeyboardInterrupt:
        return 130


def _make_printable() -> None:
    """Let no terminal, pipe or closed stream end a command over a character it can't show."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def refuse_intruders() -> None:
    """Raise LocalFault if another distribution installed a package under one of our names."""
    owners = packages_distributions()
    for name in OUR_IMPORT_NAMES:
        others = set(owners.get(name, [])) - {"qflare"}
        if others:
            raise LocalFault(
                f"the Python package {name!r} also comes from {', '.join(sorted(others))}, which "
                "could replace QFLARE's own; uninstall that, or use a fresh virtual environment"
            )


def _add(commands: _Commands, point: EntryPoint) -> None:
    """Add a room's command; one whose import fails is listed with why, and ends with it."""
    try:
        add_parser = point.load()
        add_parser(argparse.ArgumentParser().add_subparsers())  # no half of it stays in the list
    except Exception as error:
        why = f"{point.name} can't run: {remedy(point, error)}"

        def explain(_: argparse.Namespace) -> int:
            raise LocalFault(why)

        # No character begins an option, so that whatever is asked, also --help, is answered by why.
        parser = commands.add_parser(
            point.name, help=why.replace("%", "%%"), add_help=False, prefix_chars="\0"
        )
        parser.add_argument("anything", nargs="*")
        parser.set_defaults(run=explain)
    else:
        add_parser(commands)


def remedy(point: EntryPoint, error: Exception) -> str:
    """What is wrong with a command's import, and what to do."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and missing.partition(".")[0] not in OUR_IMPORT_NAMES:
        extras = [extra for room, extra in EXTRAS if f"{point.module}.".startswith(f"{room}.")]
        how = f"run: pip install 'qflare[{extras[0]}]'" if extras else "install that"
        return f"it needs {missing}; {how}"
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"{said}; install qflare again"


def _add_config(commands: _Commands) -> None:
    group = commands.add_parser("config", help="look at a daemon's configuration")
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = verbs.add_parser(
        "show",
        help="print every setting, its value, and where the value came from",
        description="Print the configuration that a daemon would use, as TOML: defaults, then the "
        "file, then QFLARE_<ROOM>__<SECTION>__<KEY> from the environment. Secrets are masked.",
    )
    rooms = sorted(point.name for point in entry_points(group="qflare.config"))
    show.add_argument("room", choices=rooms, help="whose configuration")
    show.add_argument("--file", type=Path, help="its TOML file")
    show.add_argument("--json", action="store_true", help="print one JSON object")
    show.set_defaults(run=_show_config)


def _show_config(arguments: argparse.Namespace) -> int:
    (point,) = entry_points(group="qflare.config", name=arguments.room)
    model: type[Settings] = point.load()
    loaded = config.load(model, arguments.room, arguments.file)
    if arguments.json:
        print(json.dumps(config_show.as_json(loaded), indent=2, sort_keys=True))
    else:
        print("\n".join(config_show.as_toml(loaded)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

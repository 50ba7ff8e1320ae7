"""`qflare simulate`: options, signals, what is printed where, and the exit code."""

import argparse
import asyncio
import signal
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from qflare import zoo
from qflare.faults import LocalFault
from qflare.simulate import display as displays
from qflare.simulate.data import DATASETS
from qflare.simulate.options import Options, complete
from qflare.simulate.provision import Site
from qflare.simulate.report import document, files, terminal
from qflare.simulate.report.model import Report
from qflare.simulate.run import Simulation
from qflare.simulate.workdir import claim

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

# What the run and its processes import, late; any one of a line will do.
NEEDED = (
    ("matplotlib",),
    ("rich",),
    ("sqlalchemy",),
    ("alembic",),
    ("ai_edge_litert", "tflite_runtime"),
)

EXAMPLES = """\
examples:
  qflare simulate                           20 devices, 20 rounds, smartwatch exercises
  qflare simulate --devices 5 --rounds 3    a quick look
  qflare simulate --cohort 10               ten of the devices in each round
  qflare simulate --model fashion_cnn       another model, and pictures of clothes
  qflare simulate --model model.tflite --dataset FOLDER    your own
  qflare simulate --broker nats             nats-server instead of mosquitto
  qflare simulate --json > result.json      one JSON object, for a script
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    default = {f.name: f.default for f in fields(Options)}
    default |= dict.fromkeys(("devices", "rounds", "dataset"))  # they follow from the model
    parser = commands.add_parser(
        "simulate",
        help="train a model on a simulated fleet, with the real daemons, on this machine",
        description="Start a broker, a coordinator, an enclave and a fleet of simulated devices "
        "as separate processes, train, and report. The devices run the real edge runtime; the "
        "enclave's evidence is simulated, and every report says so.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--devices", type=int, help="devices in the fleet (default 20, or as many as FOLDER has)")
    add("--rounds", type=int, help="rounds to release (default: as many as suit the model)")
    add("--cohort", type=int, help="devices invited to each round (default: all)")
    add(
        "--model",
        metavar="NAME|FILE",
        help=f"{', '.join(zoo.MODELS)}, or a .tflite as `qflare model build` makes it "
        "(default %(default)s)",
    )
    add(
        "--dataset",
        metavar="NAME|FOLDER",
        help=f"{', '.join(sorted(DATASETS))}, or a folder as `qflare data import` makes it "
        "(default: the one of the model)",
    )
    add("--learning-rate", type=float, help="of the devices, at first (default: suits the model)")
    add("--local-epochs", type=int, help="on the device in each round (default: suits the model)")
    add("--proximal-mu", type=float, metavar="MU", help="FedProx (default: none)")
    add("--example-clip", type=float, metavar="NORM", help="of a model built with --private")
    add("--noise-multiplier", type=float, metavar="FACTOR", help="of a model built with --private")
    add("--seed", type=int, help="same seed, same model, to the bit (default %(default)s)")
    add("--suite", help="xwing-mldsa65 (default) or frodo640aes-mldsa44")
    add("--codec", help="codec of the updates: fixed32, q8, q4, q8z, q4z (default %(default)s)")
    add(
        "--broker",
        metavar="URL",
        help="auto, mosquitto or nats to start one here; or mqtt://host:port of one that runs and "
        "lets anybody in (default %(default)s)",
    )
    add("--workers", type=int, help="processes that the devices share (default: one a core)")
    add("--deadline", dest="deadline_s", type=int, help="seconds a round may take (%(default)s)")
    add("--workdir", type=_folder, help="where logs and reports go (default %(default)s)")
    add("--keep", action="store_true", help="keep keys, databases and spools in WORKDIR/state")
    add(
        "--no-reference",
        dest="reference",
        action="store_false",
        help="leave out the plain float run that the result is compared with",
    )
    add("--json", action="store_true", help="print report.json on standard output, alone")
    parser.set_defaults(run=run, **default)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("name a folder")
    return Path(text)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what people read goes to standard error when --json wants the other."""
    verify_installed()
    options = complete({f.name: getattr(arguments, f.name) for f in fields(Options)})
    display = displays.choose()
    with claim(options.workdir, options.keep) as site:
        try:
            report = asyncio.run(_until_signal(options, site, display))
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the cleaning up is all that is left
            display.stop()
            print("stopped; every process has ended", file=sys.stderr)
            return EXIT_INTERRUPTED
        finally:
            display.stop()
        paths = files.write(report, options.workdir)
    terminal.show(report, sys.stderr if options.json else sys.stdout)
    for path in paths:
        print(f"wrote {path}", file=sys.stderr)
    if options.json:
        print(document.to_text(report))
    return 0 if report.ok else EXIT_FAILED


def verify_installed() -> None:
    """Raise LocalFault if a library is missing, for want of which a run could not end well."""
    for names in NEEDED:
        if not any(find_spec(name) for name in names):
            raise LocalFault(f"simulate needs {names[0]}; run: pip install 'qflare[demo]'")


async def _until_signal(options: Options, site: Site, display: displays.Display) -> Report:
    task = asyncio.current_task()
    interrupted = False

    def stop() -> None:
        nonlocal interrupted
        if not interrupted and task:  # a second Ctrl-C must not cut the cleaning up short
            interrupted = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    display.start()
    try:
        logs = options.workdir.absolute() / "logs"
        return await Simulation(options, site, logs, display).run()
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise

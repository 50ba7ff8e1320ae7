"""`qflare doctor`: everything that is looked at, in the order in which it is to be mended."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.doctor import broker, identity, kept, page, place, service, work
from edge_runtime.doctor.finding import Check, Finding, examine, ok, split
from edge_runtime.upgrade.places import OPT
from qflare.faults import LocalFault

if TYPE_CHECKING:
    from edge_runtime.config import EdgeConfig

CONFIG: Final = Path("/etc/qflare/edge.toml")
_EXAMPLES: Final = """\
examples:
  sudo qflare doctor                       look at this device, on one page
  sudo qflare doctor --quick --json        without training a model, for scripts

exit status: 0 nothing is red, 1 something is
"""


def add_parser(commands: Any) -> None:  # argparse's type isn't generic at run time
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="look at this device, and say what to do about what isn't right",
        description="Look at this device, and say what to do about whatever isn't right.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="edge.toml")
    parser.add_argument("--model", type=Path, metavar="FILE", help="hold the data against this one")
    parser.add_argument("--unit", default="qflare-edge.service", help="the daemon's")
    parser.add_argument("--opt", type=Path, default=OPT, metavar="DIR", help="the versions")
    parser.add_argument("--quick", action="store_true", help="train nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the page; 1 if anything is red."""
    findings = []
    colour = coloured(sys.stdout.isatty())
    try:
        for finding in findings_of(arguments):
            findings.append(finding)
            if not arguments.json:
                print(page.line(finding, colour), flush=True)
        print(page.as_json(findings) if arguments.json else page.total(findings), flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if page.healthy(findings) else 1


def coloured(terminal: bool) -> bool:
    """Not on a terminal that shows escapes as they are, nor for who wants none (no-color.org)."""
    able = os.environ.get("TERM", "dumb") != "dumb" and "NO_COLOR" not in os.environ
    return terminal and able


def findings_of(arguments: argparse.Namespace) -> Iterator[Finding]:
    """All of them, as they are found."""
    config: EdgeConfig | None = None
    try:
        config = _load(arguments.config)
        yield ok("configuration", str(arguments.config))
    except LocalFault as fault:
        for line in str(fault).splitlines():
            yield split("configuration", line)
    yield from examine(_checks(arguments, config))


def _load(path: Path) -> "EdgeConfig":
    from edge_runtime.config import load

    return load(path, os.environ).value


def _checks(
    arguments: argparse.Namespace, config: "EdgeConfig | None"
) -> Iterator[tuple[str, Check]]:
    unit = arguments.unit
    facts = service.unit_facts(unit)
    yield "clock", place.check_clock
    if config is not None:
        known = config
        state_dir = config.device.state_dir
        running = service.runs(facts) or service.alive(state_dir)
        yield "enrolment", lambda: kept.check_enrolment(known.device.key.parent)
        yield "keys", lambda: identity.check_identity(known, identity.utc_now())
        yield "secrets", lambda: identity.check_modes(known)
        yield "disk", lambda: place.check_disk(state_dir)
        yield "broker", lambda: broker.check_brokers(known, running)
        yield "data", lambda: work.check_data(known, arguments.config, arguments.model)
        if known.data.collected:
            yield "collector", lambda: kept.check_collector(known)
        yield "model", lambda: kept.check_model(known)
        yield "gates", lambda: work.check_gates(known)
        yield "version", lambda: service.check_version(arguments.opt, state_dir)
    if not arguments.quick:
        yield "training", work.check_training
    yield "board", place.check_board
    if config is None:
        yield "enrolment", lambda: kept.check_enrolment(arguments.config.parent)
    else:
        yield "encryption", lambda: kept.check_encryption(known)
    yield "service", lambda: service.check_unit(unit, facts)
    yield "unit's memory", lambda: service.check_memory(facts)
    yield "sandbox", lambda: service.check_sandbox(unit, facts)

"""What the operator's commands have in common: `qflare token`, `enrol`, `rollout`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from qflare.faults import LocalFault, PeerFault

CONFIG: Final = Path("/etc/qflare/coordinator.toml")
Work = Callable[[argparse.Namespace], int]


def group(commands: Any, name: str, text: str, epilog: str) -> Any:
    """Add a command that has commands of its own; where to add those."""
    parser = commands.add_parser(
        name,
        help=text,
        description=f"On the coordinator's machine: {text}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def verb(verbs: Any, name: str, text: str, work: Work) -> argparse.ArgumentParser:
    """Add one of them, with --config."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--config", type=Path, default=CONFIG, metavar="FILE", help=f"default {CONFIG}"
    )
    parser.set_defaults(run=_told(work))
    return parser


def _told(work: Work) -> Work:
    """The same; what goes wrong is told in words."""

    def run(arguments: argparse.Namespace) -> int:
        try:
            return work(arguments)
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] not in ("sqlalchemy", "alembic"):
                raise
            raise LocalFault(
                f"this needs {missing.name}; run: pip install 'qflare[coordinator]'"
            ) from None
        except PeerFault as fault:
            raise LocalFault(str(fault)) from None
        except OSError as error:
            raise LocalFault(f"{error.filename}: {error.strerror}") from None

    return run

"""`qflare manifest`: write, sign, look at and compare what the fleet's owner vouches for."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from qflare.faults import LocalFault
from qflare.host.keystore import options

_VERBS = Any  # argparse's type isn't generic at run time
_EXAMPLES: Final = """\
examples:
  qflare manifest new fleet.toml --fleet orchard --coordinator coordinator.key \\
      --device-ca device-ca.der --model model.tflite
  qflare enclave measure --json > measured.json
  qflare manifest add-measurement fleet.toml --provider process --from measured.json
  qflare manifest sign fleet.toml --first --key owner.seed -o owner.manifest
  qflare manifest inspect owner.manifest --owner owner.key

  qflare manifest revoke fleet.toml --certificate stolen.der
  qflare manifest sign fleet.toml --after owner.manifest --owner owner.key --key owner.seed -o next
  qflare manifest diff owner.manifest next

  qflare manifest set-owners fleet.toml --threshold 2 --key anna.key --key ben.key --key cleo.key
  qflare manifest sign fleet.toml --after owner.manifest --owner owner.key --key owner.seed -o next
  qflare manifest sign next --owner owner.key --key anna.seed       on Anna's machine, and so on

exit status: 0 done, 1 refused or not complete, 78 wrong draft
"""
_MODULE: Final = "qflare.host.manifest."


def add_parser(commands: _VERBS) -> None:
    """Add `manifest` and its sub-commands."""
    group = commands.add_parser(
        "manifest",
        help="what the fleet's owner vouches for: write, sign, inspect, compare",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_editing(verbs)
    _add_signing(verbs)
    _add_showing(verbs)


def _add_editing(verbs: _VERBS) -> None:
    new = _verb(verbs, "new", "editing:new", "write a draft with safe values")
    new.add_argument("draft", type=Path, metavar="FILE.toml")
    new.add_argument("--fleet", required=True, metavar="NAME")
    new.add_argument(
        "--coordinator", type=Path, required=True, metavar="FILE", help="its verify key"
    )
    new.add_argument(
        "--device-ca", type=Path, required=True, action="append", metavar="FILE", help="DER"
    )
    new.add_argument("--model", type=Path, required=True, metavar="FILE", help="to start from")
    new.add_argument(
        "--tier",
        choices=("process", "tpm", "hardware"),
        default="process",
        help="the least that evidence has to be worth (%(default)s)",
    )
    new.add_argument(
        "--insecure-simulated",
        action="store_true",
        help="take evidence that proves nothing, for a simulation",
    )
    add = _edit(verbs, "add-measurement", "editing:add_measurement", "accept code as the enclave")
    add.add_argument("--provider", required=True, metavar="KIND", help="process, tpm, tdx, sgx, …")
    add.add_argument("--measurement", metavar="HEX")
    add.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="qflare enclave measure --json"
    )
    add.add_argument("--signer", metavar="HEX", help="who signed the code, or the platform's key")
    add.add_argument("--product", type=int, default=0, metavar="N")
    add.add_argument("--svn", type=int, default=0, metavar="N", help="the least security version")
    revoke = _edit(verbs, "revoke", "editing:revoke", "take devices or code out")
    revoke.add_argument("--certificate", type=Path, action="append", default=[], metavar="FILE")
    revoke.add_argument("--serial", action="append", default=[], metavar="HEX")
    revoke.add_argument("--measurement", action="append", default=[], metavar="HEX")
    revoke.add_argument("--advisory", action="append", default=[], metavar="NAME")
    owners = _edit(verbs, "set-owners", "editing:set_owners", "say who speaks for the fleet next")
    owners.add_argument("--threshold", type=int, required=True, metavar="N")
    owners.add_argument("--key", type=Path, action="append", required=True, metavar="FILE")


def _add_signing(verbs: _VERBS) -> None:
    sign = _verb(
        verbs,
        "sign",
        "doing:sign",
        "sign a draft, or what others signed before",
        "A draft needs --first or --after; its version is one above, its dates count from now. "
        "What isn't complete yet goes to the next owner, who signs it the same way.",
    )
    sign.add_argument("file", type=Path, metavar="FILE", help="a draft (.toml), or signed already")
    sign.add_argument("--key", type=Path, required=True, metavar="SEED", help="with which to sign")
    which = sign.add_mutually_exclusive_group()
    which.add_argument("--first", action="store_true", help="it is the fleet's first manifest")
    which.add_argument("--after", type=Path, metavar="FILE", help="the signed one that stands")
    sign.add_argument(
        "--owner", type=Path, metavar="FILE", help="the first owner's verify key, as devices pin it"
    )
    sign.add_argument("-o", "--out", type=Path, metavar="FILE", help="default: the file itself")
    options.add(sign)


def _add_showing(verbs: _VERBS) -> None:
    inspect = _verb(verbs, "inspect", "doing:inspect", "say in plain words what a manifest allows")
    inspect.add_argument("file", type=Path, metavar="FILE", help="signed, or signed by some")
    inspect.add_argument(
        "--owner", type=Path, metavar="FILE", help="verify by the first owner's key"
    )
    diff = _verb(verbs, "diff", "doing:diff", "say what a manifest changes for whom")
    diff.add_argument("old", type=Path, metavar="OLD")
    diff.add_argument("new", type=Path, metavar="NEW")
    diff.add_argument("--owner", type=Path, metavar="FILE", help="verify by the first owner's key")


def _edit(verbs: _VERBS, name: str, run: str, short: str) -> argparse.ArgumentParser:
    more = "The draft is written anew: comments of yours are lost."
    parser = _verb(verbs, name, run, short, more)
    parser.add_argument("draft", type=Path, metavar="FILE.toml")
    return parser


def _verb(
    verbs: _VERBS, name: str, run: str, short: str, more: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=short,
        description=f"{short[0].upper()}{short[1:]}. {more}".strip(),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_loaded(run))
    return parser


def _loaded(place: str) -> Callable[[argparse.Namespace], int]:
    """Load what a command needs when it runs."""
    module, _, name = place.partition(":")

    def run(arguments: argparse.Namespace) -> int:
        try:
            return int(getattr(import_module(_MODULE + module), name)(arguments))
        except OSError as error:
            where = error.filename or "the disk"
            raise LocalFault(f"{where}: {error.strerror}; check its name, owner and mode") from None
        except BrokenPipeError:  # whoever reads has seen enough
            sys.stderr.close()
            return 0

    return run

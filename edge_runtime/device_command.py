"""`qflare device`: what a person does to the device that they stand before."""

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qflare.faults import LocalFault

if TYPE_CHECKING:
    from edge_runtime.config import EdgeConfig
    from edge_runtime.storage.forget import Gone, Plan

CONFIG = Path("/etc/qflare/edge.toml")
_FORGET = """\
Erase what this device knows: models, memory of the fleet, residual and personal parameters,
collected samples, keys and identity. Keys go first: what was encrypted can't be read from then on.
What wasn't encrypted is removed, but flash memory may keep it in spare blocks until they are used
again; destroy the card if that matters. Stop the daemon first. It may be interrupted and repeated.

Files that data.path names outside of the state directory are somebody else's and stay, unless
--samples is given. With --keep-identity the device stays enrolled, and remembers nothing but which
rounds it has answered.
"""
_EXAMPLES = """\
examples:
  qflare device forget                          show what would go, ask, erase
  qflare device forget --keep-identity --yes    hand the device to another user of the fleet
  qflare device forget --samples --yes --json   everything, for scripts

exit status: 0 erased (or nothing was left), 1 refused or failed, 78 wrong configuration
"""


def add_parser(commands: Any) -> None:  # argparse's type isn't generic at run time
    """Add `device` and its sub-commands."""
    group = commands.add_parser("device", help="enrol this device, or make it forget")
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_enrol(verbs)
    _add_update(verbs)
    forget = verbs.add_parser(
        "forget",
        help="erase what this device knows",
        description=_FORGET,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    forget.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="edge.toml")
    forget.add_argument("--keep-identity", action="store_true", help="keep key and certificate")
    forget.add_argument("--samples", action="store_true", help="erase data.path wherever it is")
    forget.add_argument("--yes", action="store_true", help="don't ask")
    forget.add_argument("--json", action="store_true", help="print one JSON object")
    forget.set_defaults(run=_run_forget)


def _add_enrol(verbs: Any) -> None:
    try:
        enrol = import_module("edge_runtime.enrol")
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("edge_runtime"):
            raise
    else:
        enrol.add_enrol_parser(verbs)


def _add_update(verbs: Any) -> None:
    import_module("edge_runtime.upgrade.command").add_update_parser(verbs)


def _run_forget(arguments: argparse.Namespace) -> int:
    from edge_runtime.config import load
    from edge_runtime.storage.forget import forget
    from edge_runtime.storage.sealing import find_keys

    config = load(arguments.config, os.environ).value
    plan = plan_of(config, arguments.keep_identity, arguments.samples)
    targets = [path for _, path in plan.targets()]
    if targets and not arguments.yes:
        _confirm(config.device.name, targets, arguments.keep_identity)
    storage = config.storage
    keys = (
        find_keys(os.environ, storage.key_file, storage.previous_key_file)
        if plan.keep_identity
        else None
    )
    gone = forget(plan, keys)
    kept = [] if arguments.samples or not _outside(config) else [config.data.path]
    _tell(gone, kept, plan, arguments.json)
    return 0


def plan_of(config: "EdgeConfig", keep_identity: bool, samples: bool) -> "Plan":
    """What a configuration says is of this device."""
    from edge_runtime.enrol_files import MARKER, PENDING
    from edge_runtime.storage.forget import Plan

    device, data, storage = config.device, config.data, config.storage
    storage_keys = () if keep_identity else (storage.key_file, storage.previous_key_file)
    enrolled = (device.key.parent / name for name in (MARKER, PENDING))
    secret = (*enrolled, device.key, device.certificate, config.broker.password_file)
    ours = data.collected or samples or data.path.is_relative_to(device.state_dir)
    return Plan(
        state=device.state_dir,
        keys=tuple(path for path in storage_keys if path is not None),
        identity=tuple(path for path in secret if path is not None),
        samples=(data.path,) if ours else (),
        keep_identity=keep_identity,
    )


def _outside(config: "EdgeConfig") -> bool:
    data = config.data
    return not data.collected and not data.path.is_relative_to(config.device.state_dir)


def _confirm(name: str, targets: list[Path], keep_identity: bool) -> None:
    """Raise LocalFault unless the person types the device's name."""
    out = sys.stderr
    print(f"This erases of {name}:", *(f"  {path}" for path in targets), sep="\n", file=out)
    if not keep_identity:
        print("The device leaves its fleet, and has to be enrolled again.", file=out)
    print(f"Type {name} to go on: ", end="", file=out, flush=True)
    if sys.stdin.readline().strip() != name:
        raise LocalFault("nothing was erased; type the device's name, or give --yes")


def _tell(gone: "list[Gone]", kept: list[Path], plan: "Plan", as_json: bool) -> None:
    if as_json:
        found = [
            {"kind": it.kind, "path": str(it.path), "bytes": it.size, "encrypted": it.encrypted}
            for it in gone
        ]
        shown = {
            "erased": found,
            "kept": [str(path) for path in kept],
            "identity": _identity(gone, plan),
        }
        print(json.dumps(shown))
        return
    for it in gone:
        how = "can't be decrypted any more" if it.encrypted else "removed"
        print(f"{it.kind:9} {it.path}  {it.size / 1000:.0f} kB  {how}")
    for path in kept:
        print(f"kept      {path}  (not ours; --samples erases it too)")
    if _identity(gone, plan) == "not found":
        print("the device's key is not where edge.toml says; if systemd gives it, erase it there")
    if not gone:
        print("nothing was left to erase")
    elif any(not it.encrypted for it in gone if it.kind in ("state", "samples")):
        print("what is only removed may stay in a flash memory's spare blocks; see --help")


def _identity(gone: "list[Gone]", plan: "Plan") -> str:
    if plan.keep_identity:
        return "kept"
    return "erased" if any(it.kind == "identity" for it in gone) else "not found"

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
collected samples and what was made of others, updates that wait, log, passwords, keys and identity.
Keys go first: what was encrypted can't be read from then on. What wasn't encrypted is removed, but
flash memory may keep it in spare blocks until they are used again: destroy the card if that counts.
Stop daemon and collector first. It may be interrupted and repeated.

Files of your own that [data] names, such as a folder of tables, stay unless --data is given,
wherever they are. With --keep-identity the device stays enrolled, and remembers nothing but which
rounds it has answered. The daemon's lines in the system's journal are the system's:
journalctl --rotate --vacuum-time=1s removes them.
"""
_EXAMPLES = """\
examples:
  qflare device forget --dry-run                show what would go and what would stay
  qflare device forget                          the same, ask, erase
  qflare device forget --keep-identity --yes    hand the device to another user of the fleet
  qflare device forget --data --yes --json      everything, for scripts

exit status: 0 erased (or nothing was left), 1 refused or failed, 78 wrong configuration
"""


def add_parser(commands: Any) -> None:  # argparse's type isn't generic at run time
    """Add `device` and its sub-commands."""
    group = commands.add_parser("device", help="enrol this device, or make it forget")
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_enrol(verbs)
    _add_update(verbs)
    _add_audit(verbs)
    forget = verbs.add_parser(
        "forget",
        help="erase what this device knows",
        description=_FORGET,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    forget.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="edge.toml")
    forget.add_argument("--keep-identity", action="store_true", help="keep key and certificate")
    forget.add_argument("--data", action="store_true", help="erase your own data of [data], too")
    forget.add_argument("--dry-run", action="store_true", help="only say what would go")
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


def _add_audit(verbs: Any) -> None:
    it = verbs.add_parser(
        "audit",
        help="show whether this device's updates were counted",
        description="For each of the last rounds that this device took part in: was its update "
        "counted exactly once? Verified anew, without a connection, from what the device keeps: "
        "the coordinator's and the enclave's signed words and the proofs. The daemon may run.",
        epilog="exit status: 0 all is well (counted, waiting, or refused in so many words), 1 an "
        "update wasn't proven to count, or what is kept doesn't hold, 78 wrong configuration",
    )
    it.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="edge.toml")
    it.add_argument("--json", action="store_true", help="print one JSON object")
    it.set_defaults(run=_run_audit)


def _run_audit(arguments: argparse.Namespace) -> int:
    from edge_runtime.audit_command import run

    return run(arguments)


def _run_forget(arguments: argparse.Namespace) -> int:
    from edge_runtime.config import load
    from edge_runtime.storage.forget import forget
    from edge_runtime.storage.sealing import find_keys

    config = load(arguments.config, os.environ).value
    plan = plan_of(config, arguments.keep_identity, arguments.data)
    if arguments.dry_run:
        _tell_plan(plan, arguments.json)
        return 0
    targets = [target.path for target in plan.targets()]
    if targets and not arguments.yes:
        _confirm(config.device.name, targets, arguments.keep_identity)
    storage = config.storage
    keys = (
        find_keys(os.environ, storage.key_file, storage.previous_key_file)
        if plan.keep_identity
        else None
    )
    _tell(forget(plan, keys), plan, arguments.json)
    return 0


def plan_of(config: "EdgeConfig", keep_identity: bool, with_data: bool) -> "Plan":
    """What a configuration says is of this device."""
    from edge_runtime.enrol_files import MARKER, PENDING
    from edge_runtime.provision.settings import MARKER as PROVISIONED
    from edge_runtime.provision.system import System
    from edge_runtime.storage.forget import Plan

    device, data, storage, serving = config.device, config.data, config.storage, config.serving
    home = device.key.parent
    storage_keys = () if keep_identity else (storage.key_file, storage.previous_key_file)
    identity = [device.key, device.certificate, config.broker.password_file]
    identity += [data.mqtt.password_file, *(home / n for n in (MARKER, PENDING, PROVISIONED))]
    if home == System.config:  # what its technician's program remembers would keep it provisioned
        identity.append(System.state)
    owners = [data.label.file] if data.collected else [data.path, data.label.file]
    owned = tuple(path for path in owners if path is not None)
    return Plan(
        state=device.state_dir,
        keys=tuple(path for path in storage_keys if path is not None),
        identity=tuple(path for path in identity if path is not None),
        ring=data.path if data.collected else None,
        slots=serving.slots_in(device.state_dir),
        logs=() if config.log.file is None else (config.log.file,),
        owners=owned if with_data else (),
        kept=() if with_data else owned,
        keep_identity=keep_identity,
    )


def _confirm(name: str, targets: list[Path], keep_identity: bool) -> None:
    """Raise LocalFault unless the person types the device's name."""
    out = sys.stderr
    print(f"This erases of {name}:", *(f"  {path}" for path in targets), sep="\n", file=out)
    if not keep_identity:
        print("The device leaves its fleet, and has to be enrolled again.", file=out)
    print(f"Type {name} to go on: ", end="", file=out, flush=True)
    if sys.stdin.readline().strip() != name:
        raise LocalFault("nothing was erased; type the device's name, or give --yes")


def _tell_plan(plan: "Plan", as_json: bool) -> None:
    targets, kept = list(plan.targets()), [str(path) for path in plan.rest]
    if as_json:
        found = [{"kind": it.kind, "path": str(it.path), "bytes": it.size} for it in targets]
        print(json.dumps({"would_erase": found, "kept": kept}))
        return
    for it in targets:
        print(f"{it.kind:9} {it.path}  {it.size / 1000:.0f} kB  would be erased")
    _tell_kept(plan)


def _tell_kept(plan: "Plan") -> None:
    for path in plan.rest:
        print(f"kept      {path}  (your own; --data erases it too)")


def _tell(gone: "list[Gone]", plan: "Plan", as_json: bool) -> None:
    if as_json:
        found = [
            {"kind": it.kind, "path": str(it.path), "bytes": it.size, "encrypted": it.encrypted}
            for it in gone
        ]
        shown = {
            "erased": found,
            "kept": [str(path) for path in plan.rest],
            "identity": _identity(gone, plan),
        }
        print(json.dumps(shown))
        return
    for it in gone:
        how = "can't be decrypted any more" if it.encrypted else "removed"
        print(f"{it.kind:9} {it.path}  {it.size / 1000:.0f} kB  {how}")
    _tell_kept(plan)
    if _identity(gone, plan) == "not found":
        print("the device's key is not where edge.toml says; if systemd gives it, erase it there")
    if not gone:
        print("nothing was left to erase")
    elif any(not it.encrypted for it in gone if it.kind in ("state", "samples", "data")):
        print("what is only removed may stay in a flash memory's spare blocks; see --help")


def _identity(gone: "list[Gone]", plan: "Plan") -> str:
    if plan.keep_identity:
        return "kept"
    return "erased" if any(it.kind == "identity" for it in gone) else "not found"

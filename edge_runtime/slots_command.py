"""`qflare slots`: which model applications use on this device, and back to the one before."""

import argparse
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_runtime.serving.settings import load
from edge_runtime.slots import Slot, Slots
from qflare.faults import LocalFault
from qflare.names import Digest

CONFIG = Path("/etc/qflare/edge.toml")
EXAMPLES = """\
examples:
  qflare slots                 the active model, the one before, and what was refused
  qflare slots rollback        let applications use the model before; the daemon may run meanwhile
  qflare slots lift 3fa9c1     let a refused model be tried again
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The sub-command of `qflare`."""
    parser = commands.add_parser(
        "slots",
        help="the models on this device: show, roll back",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"edge.toml (default {CONFIG})")
    parser.add_argument("--json", action="store_true", help="for programs")
    actions = parser.add_subparsers(metavar="ACTION")
    rollback = actions.add_parser("rollback", help="let applications use the model before")
    rollback.add_argument("--reason", default="rolled back by command", help="kept with it")
    rollback.set_defaults(act=_rollback)
    lift = actions.add_parser("lift", help="let a refused model be tried again")
    lift.add_argument("model", help="the beginning of its digest")
    lift.set_defaults(act=_lift)
    parser.set_defaults(run=_run, act=None)


def _run(arguments: argparse.Namespace) -> int:
    serving = load(arguments.config, os.environ)
    if not serving.slots.is_dir():
        raise LocalFault(f"{serving.slots}: no models yet; wait until one was accepted here")
    _become_owner(serving.slots)
    slots = Slots(serving.slots, serving.section.group_id)
    if arguments.act is not None:
        arguments.act(slots, arguments)
    tree = _tree(slots)
    print(json.dumps(tree, indent=1) if arguments.json else _text(tree))
    return 0


def _become_owner(directory: Path) -> None:
    """Root leaves nothing behind that the daemon couldn't open."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([owner.st_gid])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def _rollback(slots: Slots, arguments: argparse.Namespace) -> None:
    slots.rollback(str(arguments.reason), time.time())


def _lift(slots: Slots, arguments: argparse.Namespace) -> None:
    found = [model for model in slots.refused if str(model).startswith(arguments.model.lower())]
    if len(found) != 1:
        many = "several refused models begin" if found else "no refused model begins"
        raise LocalFault(f"{many} with {arguments.model[:64]}; qflare slots shows them")
    slots.lift(found[0])


def _tree(slots: Slots) -> dict[str, Any]:
    state = slots.state
    return {
        "directory": str(slots.link.parent),
        "active": _slot(slots.active, state.active),
        "since": state.since,
        "round": state.round,
        "previous": _slot(slots.previous, state.previous),
        "refused": [{"model": it.model, "reason": it.reason} for it in state.refused],
    }


def _slot(slot: Slot | None, model: str | None) -> dict[str, Any] | None:
    if model is None:
        return None
    if slot is None:
        return {"model": model, "damaged": True}
    it = slot.manifest
    return {
        "model": model,
        "name": it.name,
        "version": it.version,
        "examples": it.examples,
        "correct": it.correct,
        "loss_sum": it.loss_sum,
    }


def _text(tree: dict[str, Any]) -> str:
    lines = [_line("active", tree["active"])]
    if tree["active"]:
        since = datetime.fromtimestamp(tree["since"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines[0] += f", since {since}" + (f", round {tree['round']}" if tree["round"] else "")
    lines.append(_line("previous", tree["previous"]))
    for it in tree["refused"]:
        lines.append(f"{'refused':9} {Digest.parse(it['model']).short}: {it['reason']}")
    return "\n".join(lines)


def _line(what: str, slot: dict[str, Any] | None) -> str:
    if slot is None:
        return f"{what:9} none"
    told = f"{what:9} {Digest.parse(slot['model']).short}"
    if slot.get("damaged"):
        return f"{told}: damaged; the daemon makes it again"
    told += f" {slot['name']} {slot['version']}"
    if slot["examples"]:
        told += f", {slot['correct']} of {slot['examples']} local examples right"
        told += f", loss {slot['loss_sum'] / slot['examples']:.4g}"
    return told

"""`qflare rollout`: the operator's side, beside a running coordinator or without.

What it works with is imported when it runs: every `qflare --help` has this in it.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coordinator.commands import group, verb
from coordinator.config import CoordinatorConfig
from qflare.faults import LocalFault, PeerFault
from qflare.host.config import load
from qflare.host.files import read_bounded
from qflare.host.redact import clean_text
from qflare.host.typed import tree_of
from qflare.names import FleetId

if TYPE_CHECKING:
    from coordinator.rollout.shelf import Bundle, Shelf

_EXAMPLES: Final = """\
examples:
  qflare rollout stage qflare-1.2.0-aarch64.qflare --percent 5    a few devices first
  qflare rollout show                                             which version they run, and why
  qflare rollout widen 1.2.0 --percent 100                        everybody
  qflare rollout stop 1.2.0                                       nobody any more

Devices are drawn by their names: who is among the first 5 % is among the first 50 %, too. What a
device has fetched already can't be taken back: stage a release with a higher number.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `qflare rollout`."""
    verbs = group(commands, "rollout", "bring a new version to the fleet's devices", _EXAMPLES)
    stage = verb(verbs, "stage", "let devices have a bundle that the owner signed", _stage)
    stage.add_argument("file", type=Path)
    widen = verb(verbs, "widen", "let more or fewer devices have it", _widen)
    for parser in (stage, widen):
        parser.add_argument(
            "--percent", type=float, default=100.0, metavar="N", help="of them (default 100)"
        )
    stop = verb(verbs, "stop", "let no more devices have it", _stop)
    for parser in (widen, stop):
        parser.add_argument("version")
    show = verb(verbs, "show", "what can be had, and what devices run", _show)
    show.add_argument("--json", action="store_true", help="print one JSON object")


def _open(arguments: argparse.Namespace) -> "tuple[Shelf, CoordinatorConfig]":
    from coordinator.rollout.shelf import Shelf

    config = load(CoordinatorConfig, "coordinator", arguments.config).value
    return Shelf(config.coordinator.state_dir / "rollout"), config


def _permille(percent: float) -> int:
    if not 0.1 <= percent <= 100:
        raise LocalFault(f"--percent {percent:g}: want 0.1 to 100; stop ends it")
    return round(10 * percent)


def _stage(arguments: argparse.Namespace) -> int:
    from qflare.crypto.keys import VerifyKey
    from qflare.crypto.suites import DEFAULT

    shelf, config = _open(arguments)
    try:
        owner = VerifyKey.parse(DEFAULT, read_bounded(config.coordinator.owner_key, 64 * 1024))
        fleet = FleetId.parse(config.coordinator.fleet)
    except PeerFault as fault:
        raise LocalFault(f"{arguments.config}: {fault}") from None
    _say(shelf.stage(arguments.file, owner, fleet, _permille(arguments.percent)))
    return 0


def _widen(arguments: argparse.Namespace) -> int:
    shelf, _ = _open(arguments)
    for bundle in shelf.change(arguments.version, _permille(arguments.percent)):
        _say(bundle)
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    shelf, _ = _open(arguments)
    shelf.change(arguments.version, 0)
    print(f"{arguments.version} can't be had any more")
    return 0


def _say(bundle: "Bundle") -> None:
    size, share = bundle.size / 1e6, bundle.permille / 10
    print(f"{bundle.version} ({bundle.kind}), {size:.1f} MB: {share:g} % of the devices")


def _show(arguments: argparse.Namespace) -> int:
    shelf, _ = _open(arguments)
    bundles, devices = shelf.bundles(), shelf.told()
    versions = Counter(standing.version for standing in devices.values())
    if arguments.json:
        facts = {
            "bundles": [tree_of(bundle) for bundle in bundles],
            "versions": dict(sorted(versions.items())),
            "devices": {name: tree_of(it) for name, it in sorted(devices.items())},
        }
        print(json.dumps(facts, indent=1))
        return 0
    for bundle in bundles:
        _say(bundle)
    if not bundles:
        print("nothing can be had")
    for version, count in sorted(versions.items()):
        print(f"{count:6} run {clean_text(version)}")
    for name, it in sorted(devices.items()):
        if "update" in it.detail:
            print(f"{name}: {clean_text(it.detail)}")
    return 0

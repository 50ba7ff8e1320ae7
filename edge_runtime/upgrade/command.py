"""`qflare release` on the owner's machine, `qflare device update` on a device."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from edge_runtime.upgrade.places import OPT
from edge_runtime.upgrade.trial import HEALTH_S, UNIT
from qflare.faults import LocalFault, PeerFault
from qflare.host.keystore import options

CONFIG: Final = Path("/etc/qflare/edge.toml")
_PIECE: Final = 1024 * 1024
_RELEASE_EXAMPLES = """\
examples:
  qflare release build --wheels dist --collect --version 1.2.0 --sequence 7 --key owner.seed \\
      -o qflare-1.2.0-aarch64.qflare
  qflare release show qflare-1.2.0-aarch64.qflare --owner owner.key
"""
_UPDATE_EXAMPLES = """\
examples:
  sudo qflare device update stage qflare-1.2.0-aarch64.qflare    systemd applies it at once
  ssh pi sudo qflare device update stage - < FILE                the same from afar
  qflare device update show                                      what runs, and what came of it

exit status: 0 done, 1 refused or fell back, 78 wrong configuration
"""


def add_release_parser(commands: Any) -> None:  # argparse's type isn't generic at run time
    """Add `release` and its sub-commands."""
    group = commands.add_parser("release", help="build and sign new versions for devices")
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    build = _add(verbs, "build", "wheels to a signed bundle", _RELEASE_EXAMPLES, _run_build)
    build.add_argument("--wheels", type=Path, required=True, metavar="DIR", help="where they are")
    build.add_argument(
        "--collect", action="store_true", help="get those that miss from pip's index"
    )
    build.add_argument("--version", required=True, help="of qflare's wheel among them")
    build.add_argument("--sequence", type=int, required=True, metavar="N", help="never lower again")
    build.add_argument("--key", type=Path, required=True, metavar="FILE", help="the owner's seed")
    options.add(build)
    build.add_argument(
        "--fleet", help="the only fleet that it is for (default: any of the owner's)"
    )
    build.add_argument("--python", default="3.11", help="the devices' (default 3.11)")
    build.add_argument("--machine", default="aarch64", help="the devices' (default aarch64)")
    build.add_argument("--extras", default="edge", help="of qflare (default edge)")
    build.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")
    show = _add(verbs, "show", "what a bundle holds", _RELEASE_EXAMPLES, _run_show)
    show.add_argument("file", type=Path)
    show.add_argument("--owner", type=Path, metavar="FILE", help="verify by this owner's key too")
    show.add_argument("--json", action="store_true", help="print one JSON object")


def add_update_parser(verbs: Any) -> None:
    """Add `update` to the sub-commands of `qflare device`."""
    group = verbs.add_parser("update", help="new versions of QFLARE on this device")
    below = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    stage = _add(below, "stage", "leave a bundle to be applied", _UPDATE_EXAMPLES, _run_stage)
    stage.add_argument("file", help="the bundle; - for standard input")
    stage.add_argument("--again", action="store_true", help="also one that failed here before")
    apply = _add(
        below, "apply", "apply what is staged (systemd does)", _UPDATE_EXAMPLES, _run_apply
    )
    apply.add_argument("--unit", default=UNIT, help=f"to restart (default {UNIT})")
    apply.add_argument("--restart", metavar="COMMAND", help="in place of systemctl restart")
    apply.add_argument(
        "--within",
        type=float,
        default=HEALTH_S,
        metavar="SECONDS",
        help=f"until the new version has to be online (default {HEALTH_S:.0f})",
    )
    install = _add(
        below, "install", "the first version, on a board or in an image", "", _run_install
    )
    install.add_argument("file", type=Path)
    install.add_argument(
        "--owner", type=Path, required=True, metavar="FILE", help="the owner's key"
    )
    adopt = _add(below, "adopt", "start from a version that was made by hand", "", _run_adopt)
    adopt.add_argument(
        "--sequence", type=int, default=0, metavar="N", help="its number (default 0)"
    )
    show = _add(below, "show", "which version runs, and how updates went", "", _run_status)
    show.add_argument("--json", action="store_true", help="print one JSON object")
    for parser in (stage, apply, show):
        parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="edge.toml")
    for parser in (stage, apply, install, adopt, show):
        parser.add_argument("--opt", type=Path, default=OPT, metavar="DIR", help="the versions")


def _add(
    verbs: Any, name: str, says: str, epilog: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    def guarded(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except PeerFault as fault:
            raise LocalFault(f"the bundle is refused: {fault}") from None
        except OSError as error:
            where = error.filename or "the disk"
            raise LocalFault(f"{where}: {error.strerror}; check its name, owner and mode") from None

    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=says,
        description=f"{says[0].upper()}{says[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=guarded)
    return parser


# --- the owner's machine


def _run_build(arguments: argparse.Namespace) -> int:
    from edge_runtime.upgrade.build import Order, Target, build
    from qflare.crypto.keys import SigningKey
    from qflare.crypto.suites import DEFAULT
    from qflare.host.keystore.settings import load_seed
    from qflare.names import FleetId
    from qflare.release import Machine

    try:
        machine = Machine(arguments.machine)
    except ValueError:
        known = ", ".join(Machine)
        raise LocalFault(
            f"no devices are {arguments.machine[:40]!r}; choose from: {known}"
        ) from None
    order = Order(
        wheels=arguments.wheels,
        version=arguments.version,
        sequence=arguments.sequence,
        target=Target(arguments.python, machine),
        fleet=FleetId.parse(arguments.fleet) if arguments.fleet else None,
        extras=arguments.extras,
        collect=arguments.collect,
    )
    key = SigningKey.from_seed(DEFAULT, load_seed(arguments.key, *options.read(arguments)))
    manifest = build(order, key, arguments.out, _say)
    size = arguments.out.stat().st_size
    _say(f"{arguments.out}: {manifest.version}, {len(manifest.wheels)} wheels, {size / 1e6:.1f} MB")
    return 0


def _run_show(arguments: argparse.Namespace) -> int:
    from edge_runtime.upgrade.settings import read_owner
    from qflare.host.bundle import peek_bundle, read_manifest, read_wheels

    with arguments.file.open("rb") as file:
        if arguments.owner is None:
            manifest = peek_bundle(file)
        else:
            manifest = read_manifest(file, read_owner(arguments.owner))
        read_wheels(file, manifest)
    facts: dict[str, Any] = {
        "version": manifest.version,
        "sequence": manifest.sequence,
        "fleet": manifest.fleet,
        "python": manifest.python,
        "machine": str(manifest.machine),
        "needs_bytes": manifest.needs_bytes,
        "digest": str(manifest.digest),
        "signature": "good" if arguments.owner else "not looked at; give --owner",
        "wheels": {wheel.name: wheel.size for wheel in manifest.wheels},
    }
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return 0
    wheels = facts.pop("wheels")
    for name, value in facts.items():
        print(f"{name:12} {'any' if value is None else value}")
    for name, size in wheels.items():
        print(f"  {size / 1e6:7.2f} MB  {name}")
    return 0


# --- the device


def _run_stage(arguments: argparse.Namespace) -> int:
    from edge_runtime.upgrade import staging
    from edge_runtime.upgrade.install import this_machine, this_python
    from edge_runtime.upgrade.places import Places
    from edge_runtime.upgrade.settings import fleet_of, owned, read_owner
    from qflare.host.bundle import SUFFIX, read_manifest, read_wheels
    from qflare.release import verify_for

    device = owned(arguments.config)
    owner, places = read_owner(device.owner_key), Places(arguments.opt)
    with tempfile.TemporaryFile(dir=device.state_dir) as whole:
        if arguments.file == "-":
            _copy(sys.stdin.buffer, whole)
        else:
            with Path(arguments.file).open("rb") as file:
                _copy(file, whole)
        whole.seek(0)
        manifest = read_manifest(whole, owner)
        lowest = places.lowest()
        verify_for(manifest, fleet_of(device), this_python(), this_machine(), lowest)
        read_wheels(whole, manifest)
        _pardon(places, str(manifest.digest), arguments.again)
        whole.seek(0)
        name = f"{manifest.version}-{manifest.sequence}{SUFFIX}"
        with staging.staged_dir(device.state_dir, make=True) as directory:
            if directory is None:
                raise LocalFault(f"{device.state_dir} isn't there; start the daemon once")
            staging.put(directory, name, whole)
    _say(f"{manifest.version} is staged; follow it with journalctl -fu qflare-update")
    return 0


def _pardon(places: Any, digest: str, again: bool) -> None:
    """Raise LocalFault for a release that failed here, or take it off the list."""
    import msgspec

    ledger = places.ledger()
    failed = [bad for bad in ledger.bad if bad.digest == digest]
    if not failed:
        return
    if not again:
        raise LocalFault(f"it failed here before: {failed[0].why}; --again tries it once more")
    kept = tuple(bad for bad in ledger.bad if bad.digest != digest)
    places.write_ledger(msgspec.structs.replace(ledger, bad=kept))


def _copy(source: BinaryIO, out: BinaryIO) -> None:
    from qflare.host.bundle import bundle_max

    left = bundle_max()
    while piece := source.read(min(_PIECE, left + 1)):
        left -= len(piece)
        if left < 0:
            raise LocalFault("that is larger than any bundle; name another file")
        out.write(piece)


def _run_apply(arguments: argparse.Namespace) -> int:
    from edge_runtime.upgrade.apply import Device, Upgrade
    from edge_runtime.upgrade.places import Places
    from edge_runtime.upgrade.settings import fleet_of, owned, read_owner
    from edge_runtime.upgrade.trial import SystemdTrial, restart_command
    from qflare.host.files import take_lock

    found = owned(arguments.config)
    device = Device(
        state_dir=found.state_dir,
        owner=read_owner(found.owner_key),
        fleet=fleet_of(found),
        config=arguments.config,
    )
    places = Places(arguments.opt)
    places.prepare()
    lock = take_lock(places.update / "lock", "another update is being applied; wait for it")
    try:
        command = tuple(restart_command(arguments.restart, arguments.unit))
        trial = SystemdTrial(found.state_dir, found.brokers, command, arguments.within)
        good = Upgrade(places, device, trial, _say).run()
    finally:
        os.close(lock)
    return 0 if good else 1


def _run_install(arguments: argparse.Namespace) -> int:
    from edge_runtime.upgrade.apply import install_first
    from edge_runtime.upgrade.places import Places
    from edge_runtime.upgrade.settings import read_owner

    install_first(arguments.file, Places(arguments.opt), read_owner(arguments.owner), None, _say)
    return 0


def _run_adopt(arguments: argparse.Namespace) -> int:
    from edge_runtime.upgrade.apply import adopt
    from edge_runtime.upgrade.places import Places
    from qflare.release import SEQUENCE_MAX

    if not 0 <= arguments.sequence <= SEQUENCE_MAX:
        raise LocalFault(f"--sequence: want 0 to {SEQUENCE_MAX}")
    version = adopt(Places(arguments.opt), arguments.sequence)
    _say(f"updates start from {version}")
    return 0


def _run_status(arguments: argparse.Namespace) -> int:
    from edge_runtime.upgrade.places import STATE
    from edge_runtime.upgrade.settings import owned
    from edge_runtime.upgrade.status import update_status

    try:
        state = owned(arguments.config).state_dir
    except LocalFault:  # not enrolled yet
        state = STATE
    status = update_status(arguments.opt, state)
    if status.trouble:
        raise LocalFault(status.trouble)
    if arguments.json:
        bad = [{"version": bad.version, "why": bad.why} for bad in status.bad]
        facts = {name: getattr(status, name) for name in status.__slots__}
        print(json.dumps(facts | {"bad": bad}, indent=1))
        return 0
    print(f"runs         {status.current or 'no version of its own'} (this is {status.running})")
    print(f"before that  {status.previous or 'nothing'}")
    print(f"sequence     {status.sequence}")
    print(f"under way    {status.phase or 'nothing'}; {status.staged} staged")
    print(f"last         {status.last or 'no update yet'}")
    for failed in status.bad:
        print(f"failed       {failed.version}: {failed.why}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)

"""`qflare board`: which board this is, what is known about it, and setting it up."""

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from qflare.crypto.suites import Aead, fast_aead
from qflare.faults import LocalFault
from qflare.host.boards import backups, check, facts, plan, profile, recognise
from qflare.host.boards.check import State
from qflare.host.boards.profile import Board
from qflare.host.redact import clean_text
from qflare.host.wrapping import wrapped

WRONG: Final = 1  # the exit code of a check that found something, and of a dry run with changes
UNUSABLE: Final = 2
_Verbs = Any  # argparse's type isn't generic at run time
_Run = Callable[[argparse.Namespace], int]
_AEADS: Final = {Aead.AES_256_GCM: "AES-256-GCM", Aead.CHACHA20_POLY1305: "ChaCha20-Poly1305"}

_GROUP: Final = """\
A board is a kind of device: rpi4, jetson-orin-nano, … Only 64-bit systems will do: for 32-bit ones
the packages that QFLARE needs have no wheels.

exit codes: 0 all is well; 1 something is not as it should be, or would be changed; 2 wrong usage,
or files that can't be read
"""


def add_parser(commands: _Verbs) -> None:
    """Add `board` and its sub-commands."""
    group = commands.add_parser(
        "board",
        help="recognise a board, look at its profile, set it up and check it",
        description=_GROUP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    found = _verb(verbs, "detect", _detect, "say which board this is", "qflare board detect --json")
    _add_root(found)
    show = _verb(
        verbs,
        "show",
        _show,
        "show what is known about a board, or list the boards",
        "qflare board show\n  qflare board show rpi4",
    )
    show.add_argument("board", nargs="?", help="its name; without one, all are listed")
    apply = _verb(
        verbs,
        "apply",
        _apply,
        "show what would be changed to set the board up; with --write, change it",
        "qflare board apply                                     only show it\n"
        "  sudo qflare board apply --write                        do it, then restart the board\n"
        "  sudo qflare board apply --serial sensor --write        the header's UART is a sensor's\n"
        "  sudo qflare board apply --board rpi5 --root /media/me/rootfs --boot /media/me/bootfs",
        "Files that are changed are kept; qflare board revert puts them back byte for byte.",
    )
    _add_root(apply)
    _add_board(apply)
    apply.add_argument(
        "--serial",
        choices=("leave", "sensor", "console"),
        default="leave",
        help="whom the UART on the header's pins serves (%(default)s it as it is)",
    )
    apply.add_argument("--tpm", action="store_true", help="a TPM is plugged onto the header")
    apply.add_argument("--write", action="store_true", help="make the changes")
    revert = _verb(
        verbs,
        "revert",
        _revert,
        "take back the last `qflare board apply --write`",
        "sudo qflare board revert",
        "Once more takes back the one before it.",
    )
    _add_root(revert)
    _add_board(revert)
    revert.add_argument(
        "--force", action="store_true", help="also put back files that others changed since"
    )
    looked = _verb(
        verbs,
        "check",
        _check,
        "say what of a board is not as it should be, and what to do",
        "qflare board check\n  qflare board check --board rpi4 --root /media/me/rootfs",
    )
    _add_root(looked)
    _add_board(looked)


def _verb(
    verbs: _Verbs, name: str, run: _Run, short: str, examples: str, more: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=short,
        description=f"{short[0].upper()}{short[1:]}. {more}".strip(),
        epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_guarded(run))
    return parser


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="where a card's system is (/)"
    )


def _add_board(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--boot", type=Path, metavar="DIR", help="where its boot partition is (found below --root)"
    )
    parser.add_argument("--board", metavar="NAME", help="which board (recognised on itself)")


def _guarded(run: _Run) -> _Run:
    def guarded(arguments: argparse.Namespace) -> int:
        root = getattr(arguments, "root", Path("/"))
        try:
            if not root.is_dir():
                raise LocalFault(f"{root}: no such directory; name where the card is mounted")
            return run(arguments)
        except LocalFault as fault:
            print(f"qflare: {fault}", file=sys.stderr)
            return UNUSABLE

    return guarded


def _print(arguments: argparse.Namespace, report: object, lines: Sequence[str]) -> None:
    try:
        print(json.dumps(report, indent=2) if arguments.json else "\n".join(lines), flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _detect(arguments: argparse.Namespace) -> int:
    root: Path = arguments.root
    board = recognise.detect(root)
    report = {
        "board": board.name if board else None,
        "title": board.title if board else None,
        "model": clean_text(recognise.model(root)),
        "serial": clean_text(recognise.serial_number(root)),
        "compatible": [clean_text(word) for word in recognise.compatible(root)],
        "programs": recognise.userland(root),
    }
    told = report["model"] or "a machine without a device tree"
    if board is None:
        lines = [f"none that we know: {told}, programs for {report['programs'] or 'what it lacks'}"]
    else:
        lines = [f"{board.name}: {board.title} ({told})"]
    _print(arguments, report, lines)
    return 0 if board else WRONG


def _show(arguments: argparse.Namespace) -> int:
    if arguments.board is None:
        boards = profile.every()
        width = max(len(board.name) for board in boards)
        report: object = [{"board": board.name, "title": board.title} for board in boards]
        _print(arguments, report, [f"{board.name:{width}}  {board.title}" for board in boards])
        return 0
    board = profile.load(arguments.board)
    _print(arguments, profile.tree_of(board), describe(board))
    return 0


def describe(board: Board) -> list[str]:
    """A profile in words."""
    rows = [
        ("processor", f"{board.processor.cores} x {board.processor.name}"),
        ("fast AEAD", _AEADS[fast_aead("Features: aes" if board.processor.aes else "")]),
        ("memory", f"{board.memory.total_mib} MiB, {board.memory.training_mib} for training"),
        ("threads", f"{board.threads} for training"),
        (
            "temperature",
            f"held from {board.thermal.hold:g} °C on, goes on below {board.thermal.resume:g} °C; "
            f"the board throttles from {board.thermal.throttles:g} °C on",
        ),
        ("watchdog", f"{board.watchdog.driver}, {board.watchdog.seconds} s"),
    ]
    rows += [("power mode", f"{mode.name}: {mode.shows}") for mode in board.power.modes]
    rows += [
        (uart.name, f"{uart.kind}, at {uart.address}: {uart.where}; {uart.when}")
        for uart in board.uart
    ]
    if board.serial:
        rows.append(("sensor's UART", board.serial.why.strip()))
    if board.boot:
        rows += [("config.txt", line) for line in board.boot.config]
        rows += [("cmdline.txt", word) for word in board.boot.words]
    if board.tpm:
        rows.append(("TPM", " ".join([board.tpm.note, *board.tpm.config])))
    rows += [(led.name, led.shows) for led in board.led]
    if board.cost:
        rows.append(("speed", f"{board.cost.speed:g} of the reference core, estimated"))
    width = max(len(name) for name, _ in rows)
    note = wrapped(board.note, "", "")
    return [f"{board.name}: {board.title}", *note, "", *_columns(rows, width)]


def _columns(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    lines = []
    for name, text in rows:
        lines += wrapped(text, f"{name:{width}}  ", " " * (width + 2))
    return lines


def _apply(arguments: argparse.Namespace) -> int:
    board = recognise.choose(arguments.board, arguments.root)
    where = plan.places(arguments.root, arguments.boot, board)
    wishes = plan.Wishes(arguments.serial, arguments.tpm)
    changes = plan.changes(board, where, wishes)
    lines = []
    for change in changes:
        lines += [f"# {change.why}", *diff(change, where), ""]
    report: dict[str, Any] = {
        "board": board.name,
        "written": False,
        "changes": [
            {
                "file": str(where.path(change.place, change.name)),
                "new": change.before is None,
                "why": change.why,
                "diff": "\n".join(diff(change, where)),
            }
            for change in changes
        ],
    }
    if not changes:
        lines = [f"{board.title}: all is as it should be"]
    elif arguments.write:
        folder = backups.apply(changes, where, board.name)
        report |= {"written": True, "backup": str(folder)}
        lines.append(
            f"{len(changes)} files changed; what they were is in {folder}. Restart the board."
        )
    else:
        lines.append(f"Nothing was written. To change these {len(changes)} files: --write")
    _print(arguments, report, lines)
    return WRONG if changes and not arguments.write else 0


def diff(change: plan.Change, where: plan.Places) -> list[str]:
    """The change as a unified diff; of bytes that no terminal shows, their escapes."""
    path = where.path(change.place, change.name)
    old, new = (_lines(data) for data in (change.before or b"", change.after))
    before = "/dev/null" if change.before is None else str(path)
    return list(difflib.unified_diff(old, new, before, str(path), lineterm=""))


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", "backslashreplace").replace("\r", "\\r")
    return [clean_text(line) for line in text.removesuffix("\n").split("\n")] if text else []


def _revert(arguments: argparse.Namespace) -> int:
    known = backups.sets(arguments.root)
    if not known:
        raise LocalFault("nothing was applied here, so there is nothing to take back")
    saved = backups.load(known[-1])
    board = profile.load(arguments.board or saved.board)
    where = plan.Places(arguments.root, None)
    if any(file.place == "boot" for file in saved.files):
        where = plan.places(arguments.root, arguments.boot, board)
    paths = backups.revert(known[-1], where, arguments.force)
    lines = [f"{path}: as it was" for path in paths] or ["The files already were as they had been."]
    if len(known) > 1:
        lines.append("There is an older set: qflare board revert takes that back too.")
    report = {"reverted": [str(path) for path in paths], "older_sets": len(known) - 1}
    _print(arguments, report, lines)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    board = recognise.choose(arguments.board, arguments.root)
    found = check.check(board, arguments.root, arguments.boot)
    power = facts.power_mode(arguments.root)
    report = {
        "board": board.name,
        "ok": all(finding.state is not State.WRONG for finding in found),
        "power_mode": power,
        "ports": {port.name: port.tty for port in facts.ports(board, arguments.root)},
        "findings": [
            {
                "what": finding.what,
                "state": finding.state.value,
                "says": clean_text(finding.says),
                "remedy": finding.remedy,
            }
            for finding in found
        ],
    }
    width = max(len(finding.what) for finding in found)
    lines = [f"{board.name}: {board.title}"]
    space = " " * (width + 11)
    for finding in found:
        mark = f"{finding.state:7}  {finding.what:{width}}  "
        lines += wrapped(clean_text(finding.says), mark, space)
        if finding.state is State.WRONG:
            lines += wrapped(finding.remedy, f"{space}-> ", f"{space}   ")
    _print(arguments, report, lines)
    return 0 if report["ok"] else WRONG

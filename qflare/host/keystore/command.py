"""`qflare keys`: what keeps the private keys, moved from a file to a TPM or token and back."""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qflare.faults import LocalFault
from qflare.host.keystore import options
from qflare.host.keystore.form import Kind

if TYPE_CHECKING:
    from qflare.crypto.keys import SigningKey
    from qflare.host.keystore.store import Sealer

FOLDER: Final = Path("/etc/qflare")
_SUFFIX: Final = ".seed"  # of plain keys; 32 bytes of anything else are no key
_EXAMPLES: Final = """\
examples:
  qflare keys list                                    the keys in /etc/qflare and what keeps them
  qflare keys check /etc/qflare/coordinator.seed      does it open here? whose is it?
  qflare keys new owner.seed --to file --public owner.key
  qflare keys move /etc/qflare/coordinator.seed --to tpm
  qflare keys move owner.seed --to file               from file to file: another passphrase
  qflare keys state -o state.json                     what the TPM knows of this machine
  qflare keys approve state.json --approver approver.pem --approvals approvals.json

exit status: 0 done, 1 refused, 78 wrong configuration
"""
_CUT_OFF: Final = "a move was cut off, and the former copy is still there; run the move again"


def add_parser(commands: Any) -> None:  # argparse's type isn't generic at run time
    """Add `keys` and its sub-commands."""
    group = commands.add_parser(
        "keys",
        help="where private keys are kept: a passphrase, a TPM, a token",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = _add(verbs, "list", "keys, and what keeps each; opens none", _list)
    listing.add_argument(
        "paths", type=Path, nargs="*", metavar="PATH", help=f"files or folders (default {FOLDER})"
    )
    check = _add(verbs, "check", "open keys, and say whose they are", _check)
    check.add_argument("paths", type=Path, nargs="+", metavar="FILE")
    check.add_argument("--public", type=Path, metavar="OUT", help="write the verify key of one")
    new = _add(verbs, "new", "make a signing key that is never on the disk in clear", _new)
    new.add_argument("path", type=Path, metavar="FILE")
    new.add_argument("--public", type=Path, metavar="FILE", help="write its verify key there")
    move = _add(verbs, "move", "have keys kept by something else; then the old copy goes", _move)
    move.add_argument("paths", type=Path, nargs="+", metavar="FILE")
    for parser in (new, move):
        options.add_new(parser)
    forget = _add(verbs, "forget", "destroy a key's file", _forget)
    forget.add_argument("path", type=Path, metavar="FILE")
    forget.add_argument("--yes", action="store_true", help="there is a backup, or none is wanted")
    state = _add(verbs, "state", "what this machine's TPM knows of it, to be approved", _state)
    state.add_argument("-o", "--out", type=Path, metavar="FILE", help="default: standard output")
    approve = _add(verbs, "approve", "approve a machine's state (the owner does)", _approve)
    approve.add_argument("state", type=Path, metavar="STATE", help="what `state` wrote")
    approve.add_argument(
        "--approver", type=Path, required=True, metavar="PEM", help="the private key that approves"
    )
    approve.add_argument(
        "--approvals", type=Path, required=True, metavar="FILE", help="where it is added"
    )
    for parser in (listing, check):
        parser.add_argument("--json", action="store_true", help="print one JSON array")
    for parser in (check, new, move, state, approve):
        options.add(parser)


def _add(
    verbs: Any, name: str, says: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    def guarded(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except OSError as error:
            where = error.filename or "the disk"
            raise LocalFault(f"{where}: {error.strerror}; check its name, owner and mode") from None

    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=says,
        description=f"{says[0].upper()}{says[1:]}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=guarded)
    return parser


@dataclass(frozen=True)
class Line:
    """One key, as it is shown."""

    path: str
    store: str
    key: str = ""  # the fingerprint of its public half
    wrong: str = ""
    note: str = ""


def _list(arguments: argparse.Namespace) -> int:
    from qflare.host.keystore.form import kind_of
    from qflare.host.keystore.moving import unfinished
    from qflare.host.keystore.store import read_form

    lines = []
    for path, asked in _files(arguments.paths or [FOLDER]):
        try:
            kind = kind_of(read_form(path))
        except LocalFault as fault:
            if asked or path.suffix == _SUFFIX:
                lines.append(Line(str(path), "?", wrong=str(fault)))
            continue
        if kind is not Kind.PLAIN or asked or path.suffix == _SUFFIX:
            lines.append(Line(str(path), kind, wrong=_CUT_OFF if unfinished(path) else ""))
    return _show(lines, arguments.json)


def _files(paths: list[Path]) -> list[tuple[Path, bool]]:
    """Files to look at, and whether each was named rather than found in a folder."""
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.iterdir())
            found += [(p, False) for p in inside if p.is_file() and not p.name.startswith(".")]
        else:
            found.append((path, True))
    return found


def _check(arguments: argparse.Namespace) -> int:
    from qflare.crypto.keys import SigningKey
    from qflare.crypto.suites import DEFAULT
    from qflare.host.keystore.form import kind_of
    from qflare.host.keystore.settings import load_seed
    from qflare.host.keystore.store import read_form

    if arguments.public is not None and len(arguments.paths) > 1:
        raise LocalFault("--public wants one key")
    section, sealers = options.read(arguments)
    lines = []
    for path in arguments.paths:
        store: Kind | None = None
        try:
            store = kind_of(read_form(path))
            seed = load_seed(path, section, sealers)
            lines.append(Line(str(path), store, _whose(seed), note=_note(sealers(store))))
            if arguments.public is not None:
                _write_public(arguments.public, SigningKey.from_seed(DEFAULT, seed))
        except LocalFault as fault:
            lines.append(Line(str(path), store or "?", wrong=str(fault)))
    return _show(lines, arguments.json)


def _whose(seed: bytes) -> str:
    from qflare.crypto.keys import KemPrivateKey, SigningKey
    from qflare.crypto.suites import DEFAULT

    if len(seed) == DEFAULT.signing_seed_length:
        return str(SigningKey.from_seed(DEFAULT, seed).verify_key.fingerprint)
    if len(seed) == DEFAULT.kem_seed_length:
        return str(KemPrivateKey.from_seed(DEFAULT, seed).public.fingerprint)
    return ""


def _note(sealer: "Sealer") -> str:
    from qflare.host.keystore.hsm import InToken

    if isinstance(sealer, InToken) and sealer.abilities().signs:
        return "this token signs ML-DSA by itself (CKM_ML_DSA), which isn't used yet"
    return ""


def _show(lines: list[Line], as_json: bool) -> int:
    if as_json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
    else:
        for line in lines:
            print(f"{line.store:6} {line.path}{'  ' if line.key else ''}{line.key}")
            for more in filter(None, (line.wrong, line.note)):
                print(f"       {more}")
        if not lines:
            print("no keys there")
    return 1 if any(line.wrong for line in lines) else 0


def _new(arguments: argparse.Namespace) -> int:
    from qflare.crypto.keys import SigningKey
    from qflare.crypto.suites import DEFAULT
    from qflare.host.keystore.store import KeyStore

    (_, openers), into = options.read(arguments), options.read_new(arguments)
    if arguments.public is not None and arguments.public.exists():
        raise LocalFault(f"{arguments.public} is there already; choose another name")
    key, path = SigningKey.generate(DEFAULT), arguments.path
    KeyStore(path.parent, openers, into).keep(path.name, key.to_seed())
    if arguments.public is not None:
        _write_public(arguments.public, key)
    print(f"{path}: kept by {into.kind}, {key.verify_key.fingerprint}")
    return 0


def _write_public(path: Path, key: "SigningKey") -> None:
    from qflare.host.files import write_atomic

    write_atomic(path, key.verify_key.raw, 0o644)


def _move(arguments: argparse.Namespace) -> int:
    from qflare.host.keystore.moving import move
    from qflare.host.keystore.store import KeyStore

    (_, openers), into = options.read(arguments), options.read_new(arguments)
    for path in arguments.paths:
        move(KeyStore(path.parent, openers, into), path.name)
        print(f"{path}: kept by {into.kind}")
    return 0


def _forget(arguments: argparse.Namespace) -> int:
    from qflare.host.keystore.store import AsIs, KeyStore, read_form

    path, keeper = arguments.path, AsIs()
    read_form(path)
    if not arguments.yes:
        raise LocalFault(f"{path}: nothing brings it back; --yes destroys it")
    KeyStore(path.parent, lambda _: keeper, keeper).forget(path.name)
    return 0


def _state(arguments: argparse.Namespace) -> int:
    from qflare.host.files import write_atomic
    from qflare.host.keystore.settings import TpmSection
    from qflare.host.keystore.tpm_device import read_state
    from qflare.host.typed import encode

    section, _ = options.read(arguments)
    tpm = section.tpm if section else TpmSection()
    state = read_state(tpm.device, tpm.pcrs)
    if not state.measured:
        options.warn(
            "nothing is measured into these PCRs on this machine: approved, the TPM opens keys for "
            "whatever is started here, and keeps them from every other machine only"
        )
    if arguments.out is None:
        print(encode(state).decode(), end="")
    else:
        write_atomic(arguments.out, encode(state), 0o644)
    return 0


def _approve(arguments: argparse.Namespace) -> int:
    from qflare.host.files import read_bounded, write_atomic
    from qflare.host.keystore import pcrs
    from qflare.host.keystore.store import read_private
    from qflare.host.typed import encode

    state = pcrs.parse_state(read_bounded(arguments.state, pcrs.STATE_MAX))
    path, before = arguments.approvals, pcrs.Approvals()
    if os.path.lexists(path):
        before = pcrs.parse_approvals(read_bounded(path, pcrs.APPROVALS_MAX))
    pem = read_private(arguments.approver)
    try:
        key = pcrs.approver_private(pem, None)
    except TypeError:
        key = pcrs.approver_private(pem, options.passphrase(arguments, "the approver's password")())
    after = pcrs.approve(before, state, key)
    if after is not before:
        write_atomic(path, encode(after), 0o644)
    values = ", ".join(f"PCR {pcr.number} {pcr.value[:12]}…" for pcr in state.pcrs)
    print(f"{path}: approved {values}")
    return 0

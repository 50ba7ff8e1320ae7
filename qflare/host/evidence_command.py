"""`qflare enclave`: what its code measures, whether its evidence counts, and why it was refused."""

import argparse
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from qflare.faults import LocalFault, PeerFault

_EXAMPLES: Final = """\
examples:
  qflare enclave measure                                on two machines: the same measurement
  qflare enclave measure --json > measured.json
  mosquitto_sub -C 1 -N -t qflare/1/orchard/all/offer > offer
  qflare enclave verify offer --manifest owner.manifest --owner owner.key
  sudo qflare enclave explain /var/lib/qflare      on a device

exit status: 0 good, 1 refused
"""
_BESIDE: Final = ("numpy", "cryptography")  # code that the enclave runs and that isn't measured
_REMEDY: Final = {  # by words of the refusal: the first that is in it
    "is revoked": "the owner revoked this code: the operator has to run a newer enclave",
    "is not a reference value": "another code runs than the owner knows. If it is a new version: "
    "the owner adds its measurement (qflare enclave measure, qflare manifest add-measurement) and "
    "signs. If nobody changed it, take the enclave's host for attacked",
    "endorsements have expired": "the coordinator has to fetch new ones; nothing to do here",
    "has ended": "the owner has to sign the next manifest: qflare manifest sign",
    "TCB is": "the platform's firmware is out of date: its operator updates it; until then the "
    "owner may accept the status (appraisal.tcb_statuses)",
    "advisory": "the platform has this weakness: update its firmware, or let the owner decide",
    "TCB list": "the coordinator has to fetch newer collateral",
    "doesn't give the layer": "the enclave's host needs a newer kernel, or the owner lowers what "
    "appraisal.layers asks for",
    "debug": "start the enclave without debug mode",
    "and the owner wants": "run the enclave where better evidence can be had, or let the owner "
    "lower appraisal.tier, knowing what that is worth",
    "simulated": "it is a simulation; a real fleet's enclave has to show real evidence",
    "other claims": "evidence was taken from elsewhere: take the coordinator for attacked",
    "long closed": "an old offer was shown again; if this clock is right, ask the coordinator's "
    "operator",
    "no verifier": "update QFLARE on this device: it doesn't know this kind of evidence",
}


def add_parser(commands: Any) -> None:  # argparse's type isn't generic at run time
    """Add `enclave` and its sub-commands."""
    group = commands.add_parser(
        "enclave",
        help="what the enclave's code measures, and whether its evidence counts",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _verb(verbs, "measure", "the reference value of the code that is installed here", _measure)
    verify = _verb(verbs, "verify", "appraise a round offer, step by step", _verify)
    verify.add_argument("offer", type=Path, metavar="FILE", help="a signed RoundOffer")
    verify.add_argument("--manifest", type=Path, required=True, metavar="FILE")
    verify.add_argument("--owner", type=Path, required=True, metavar="FILE")
    verify.add_argument("--at", type=int, metavar="SECONDS", help="Unix time (default: now)")
    explain = _verb(verbs, "explain", "a device's last appraisal in plain words", _explain)
    explain.add_argument("path", type=Path, metavar="PATH", help="state directory, or the record")


def _verb(verbs: Any, name: str, short: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=short,
        description=f"{short[0].upper()}{short[1:]}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)
    return parser


def _measure(arguments: argparse.Namespace) -> int:
    """In a process of its own: nothing here imports the enclave."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "enclave.measure", "--json"], capture_output=True, check=False
    )
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise LocalFault(
            "the enclave isn't installed here; run: pip install 'qflare[enclave]'"
        ) from None
    told["covers"] = "every file of enclave/ and of qflare/ that it imports"
    told["not_covered"] = {"python": sys.version.split()[0], **_wheels()}
    lines = [
        f"measurement {told['measurement']}",
        f"covers {told['covers']}: {len(told['files'])} files, {told['code_lines']} code lines",
        "not covered, compare them by themselves:",
        f"  python {told['not_covered']['python']}",
    ]
    for name in _BESIDE:
        wheel = told["not_covered"][name]
        lines.append(f"  {name} {wheel['version']}, RECORD {wheel['record']}")
    print(json.dumps(told, indent=2) if arguments.json else "\n".join(lines))
    return 0


def _wheels() -> dict[str, dict[str, str]]:
    """Versions, and SHA-256 of the lists of files that pip checked when it installed them."""
    from qflare.names import Digest

    out = {}
    for name in _BESIDE:
        try:
            found = distribution(name)
        except PackageNotFoundError:
            out[name] = {"version": "not installed", "record": ""}
            continue
        # Lines of the wheel alone: pip adds what differs between machines.
        hashed = [
            line for line in (found.read_text("RECORD") or "").splitlines() if "sha256=" in line
        ]
        own = sorted(
            line for line in hashed if not line.startswith(("..", "/")) and not _added(line)
        )
        record = str(Digest.of("\n".join(own).encode()))
        out[name] = {"version": found.version, "record": record}
    return out


def _added(line: str) -> bool:
    """Did pip write this file itself?"""
    name = line.partition(",")[0].rpartition("/")[2]
    return name in ("INSTALLER", "REQUESTED", "direct_url.json") or name.endswith(".pyc")


def _verify(arguments: argparse.Namespace) -> int:
    import time

    from qflare.crypto.keys import VerifyKey
    from qflare.envelope import open_signed
    from qflare.host.config import read_file
    from qflare.host.manifest.files import read_owner, read_signed
    from qflare.messages import KIB, RoundOffer
    from qflare.verification import Verification

    owner = read_owner(arguments.owner)
    signed = read_signed(arguments.manifest, owner)
    if signed.missing:
        raise LocalFault(f"{arguments.manifest} isn't signed by enough owners")
    manifest = signed.manifest
    data = read_file(arguments.offer, RoundOffer.CEILING + 64 * KIB)
    try:
        key = VerifyKey.parse(owner.suite, manifest.coordinator_key)
        offer = open_signed(RoundOffer, data, key)
        if offer.claims.manifest != manifest.digest:
            raise LocalFault("the offer was made under another owner manifest; name that one")
        manifest.bounds.verify(offer.policy)
    except PeerFault as fault:
        raise LocalFault(f"{arguments.offer}: {fault}") from None
    now = int(time.time()) if arguments.at is None else arguments.at
    record, _ = Verification.run(offer.evidence, offer.claims, manifest, now)
    return _show(arguments, record)


def _explain(arguments: argparse.Namespace) -> int:
    from qflare.host.config import read_file
    from qflare.verification import FILE, Verification

    path: Path = arguments.path / FILE if arguments.path.is_dir() else arguments.path
    try:
        record = Verification.parse(read_file(path, Verification.CEILING))
    except PeerFault as fault:
        raise LocalFault(f"{path}: no verification record: {fault}") from None
    return _show(arguments, record)


def _show(arguments: argparse.Namespace, record: Any) -> int:
    from qflare.host.manifest.words import date, tier_words, tree
    from qflare.host.redact import clean_text

    lines = [
        f"round {record.round} of fleet {record.fleet}, appraised {date(record.at)}",
        f"against owner manifest {record.manifest_version} ({record.manifest.short}), "
        f"which wants tier {tier_words(record.tier_wanted)}",
        *(f"  passed  {step}: {clean_text(found)}" for step, found in record.passed),
    ]
    todo = remedy(record.detail or record.reason) if record.reason else ""
    if record.reason:
        lines += [f"  FAILED  {clean_text(record.reason)}: {clean_text(record.detail)}"]
        lines += ["nothing was sealed to this enclave", f"what to do: {todo}"]
    else:
        lines += ["every step was passed: this enclave may be given updates"]
    told = {**tree(record), "accepted": not record.reason, "what_to_do": todo}
    print(json.dumps(told, indent=2) if arguments.json else "\n".join(lines))
    return int(bool(record.reason))


def remedy(detail: str) -> str:
    """What to do about a refusal, by its words."""
    for words, does in _REMEDY.items():
        if words in detail:
            return does
    return "the evidence isn't what it should be: show this to the operator and the owner"

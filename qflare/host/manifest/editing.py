"""The commands that write a draft."""

import argparse
import json
from pathlib import Path
from typing import Any

from cryptography import x509

from qflare.crypto.certificates import CERTIFICATE_MAX
from qflare.faults import LocalFault, PeerFault
from qflare.host.config import ConfigFault, read_file
from qflare.host.manifest.draft import (
    AppraisalDraft,
    Draft,
    GenesisDraft,
    OwnersDraft,
    ReferenceDraft,
    changed,
    more,
    read_draft,
    tree_of,
    write_draft,
)
from qflare.host.typed import Unfit, parse
from qflare.messages import KIB
from qflare.names import FleetId


def new(arguments: argparse.Namespace) -> int:
    """Write a draft; what is there already isn't replaced."""
    path: Path = arguments.draft
    if path.exists():
        raise LocalFault(f"{path} is there already; edit it, or name another file")
    try:
        fleet = FleetId.parse(arguments.fleet)
    except PeerFault as fault:
        raise LocalFault(f"--fleet: {fault.detail}") from None
    simulated = arguments.insecure_simulated
    draft = Draft(
        fleet=str(fleet),
        coordinator_key=_from(path, arguments.coordinator),
        device_cas=tuple(_from(path, ca) for ca in arguments.device_ca),
        genesis=GenesisDraft(_from(path, arguments.model)),
        insecure_allow_simulated=simulated,
        appraisal=AppraisalDraft(tier="simulated" if simulated else arguments.tier),
    )
    return _write(arguments, draft, "look through it, and add what may run as the enclave")


def add_measurement(arguments: argparse.Namespace) -> int:
    """Add a reference value."""
    draft = read_draft(arguments.draft)
    measurement = arguments.measurement
    if arguments.source is not None:
        if measurement is not None:
            raise LocalFault("--measurement or --from, not both")
        measurement = _measured(arguments.source)
    given = {
        "provider": arguments.provider,
        "measurement": measurement,
        "signer": arguments.signer,
        "product": arguments.product,
        "svn": arguments.svn,
    }
    if measurement is None and arguments.signer is None:
        raise LocalFault("name the code: --from or --measurement, or --signer where code is signed")
    value = _parse(ReferenceDraft, {key: it for key, it in given.items() if it is not None})
    if value in draft.reference_values:
        raise LocalFault("this reference value is there already")
    draft = changed(draft, reference_values=(*draft.reference_values, value))
    return _write(arguments, draft, f"{value.provider} may run {measurement or value.signer}")


def revoke(arguments: argparse.Namespace) -> int:
    """Add what no longer counts; a measurement is no reference value afterwards."""
    draft = read_draft(arguments.draft)
    serials = [text.lower().removeprefix("0x") for text in arguments.serial]
    for path in arguments.certificate:
        try:
            found = x509.load_der_x509_certificate(read_file(path, CERTIFICATE_MAX))
        except ValueError:
            raise LocalFault(f"{path}: want a device's certificate (DER)") from None
        serials.append(f"{found.serial_number:x}")
    gone = [text.lower() for text in arguments.measurement]
    if not (serials or gone or arguments.advisory):
        raise LocalFault("name what to revoke: --certificate, --serial, --measurement, --advisory")
    tree = tree_of(draft)
    wanted = tree["appraisal"]
    tree["revoked_devices"] = more(draft.revoked_devices, serials)
    wanted["revoked_measurements"] = more(draft.appraisal.revoked_measurements, gone)
    wanted["refused_advisories"] = more(draft.appraisal.refused_advisories, arguments.advisory)
    kept = [value for value in tree["reference_values"] if value["measurement"] not in gone]
    tree["reference_values"] = kept
    return _write(arguments, _parse(Draft, tree), "revoked by the manifest that you sign from it")


def set_owners(arguments: argparse.Namespace) -> int:
    """Say who speaks for the fleet from the next manifest on."""
    draft = read_draft(arguments.draft)
    keys = tuple(_from(arguments.draft, key) for key in arguments.key)
    tree = {"threshold": arguments.threshold, "keys": [str(key) for key in keys]}
    wanted = _parse(OwnersDraft, tree)
    if wanted.threshold > len(keys):
        raise LocalFault(f"--threshold {wanted.threshold}: there are {len(keys)} keys")
    says = f"{wanted.threshold} of {len(keys)} sign next; the owners before have to agree"
    return _write(arguments, changed(draft, owners=wanted), says)


def _write(arguments: argparse.Namespace, draft: Draft, says: str) -> int:
    checked = _parse(Draft, tree_of(draft))
    write_draft(arguments.draft, checked)
    told = {"draft": str(arguments.draft), **tree_of(checked)}
    print(json.dumps(told, indent=2) if arguments.json else f"{arguments.draft}: {says}")
    return 0


def _from(draft: Path, path: Path) -> Path:
    """As it is written in a draft: from the draft's folder on, where that is shorter."""
    whole, folder = path.absolute(), draft.absolute().parent
    return whole.relative_to(folder) if whole.is_relative_to(folder) else whole


def _measured(path: Path) -> str:
    try:
        return str(json.loads(read_file(path, 1024 * KIB))["measurement"])
    except (ValueError, RecursionError, KeyError, TypeError):
        raise LocalFault(f"{path}: want what `qflare enclave measure --json` printed") from None


def _parse(form: type[Any], tree: dict[str, Any]) -> Any:
    try:
        return parse(form, tree)
    except Unfit as unfit:
        raise ConfigFault(str(unfit)) from None

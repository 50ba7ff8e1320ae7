"""`qflare device audit`: shows a person what became of this device's updates. Offline.

The daemon holds its database alone, so that a copy is read: taken again if it changed meanwhile.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from edge_runtime.audit import Finding, Kept, audit
from edge_runtime.config import load
from edge_runtime.storage.database import FILES, Database
from edge_runtime.storage.rows import MIGRATIONS, Rows
from edge_runtime.storage.sealing import find_keys, read_seal
from edge_runtime.storage.vault import Damaged, Vault
from edge_runtime.store import memory_of
from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import suite_of_verify_key
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import read_bounded
from qflare.messages import KIB
from qflare.names import DeviceId, FleetId

_TRIES = 5
_OWNER_KEY_MAX = 64 * KIB
_NUMBER_BYTES = 8  # before the memory's bytes


def run(arguments: argparse.Namespace) -> int:
    """0: nothing is wrong; 1: an update wasn't proven to count, or what is kept doesn't hold."""
    config = load(arguments.config, os.environ).value
    device, storage = config.device, config.storage
    keys = find_keys(os.environ, storage.key_file, storage.previous_key_file)
    seal = read_seal(device.state_dir, keys)
    owner = read_bounded(device.owner_key, _OWNER_KEY_MAX)
    with tempfile.TemporaryDirectory(prefix="qflare-audit-") as folder:
        copied(device.state_dir, Path(folder))
        db = Database(Path(folder) / FILES[0], MIGRATIONS)
        try:
            kept = kept_in(Rows(db, seal.vault() if seal else Vault()))
            key = VerifyKey.parse(suite_of_verify_key(owner), owner)
            fleet, name = FleetId.parse(device.fleet), DeviceId.parse(device.name)
            findings = list(audit(kept, key, fleet, name))
        except PeerFault as fault:
            raise LocalFault(f"the owner manifest that is kept doesn't hold: {fault}") from None
        finally:
            db.close()
    tell(findings, arguments.json)
    return int(not all(finding.well for finding in findings))


def copied(source: Path, target: Path) -> None:
    """Copy the database while it may be in use; raise LocalFault if it never stays the same."""
    names = FILES[:2]  # what another process may have open beside them is of no use here
    if not (source / names[0]).exists():
        raise LocalFault(f"{source / names[0]} isn't there: this device has no memory yet")
    for _ in range(_TRIES):
        before = _stamps(source)
        for name in names:
            (target / name).unlink(missing_ok=True)
            if (source / name).exists():
                shutil.copyfile(source / name, target / name)
        if _stamps(source) == before:
            return
    raise LocalFault(f"{source} changes all the time; try again, or stop the daemon first")


def _stamps(source: Path) -> list[tuple[int, int]]:
    found = [source / name for name in FILES[:2]]
    return [(it.stat().st_mtime_ns, it.stat().st_size) for it in found if it.exists()]


def kept_in(rows: Rows) -> Kept:
    """Raise LocalFault for a store that can't be read."""
    try:
        memory, manifest = rows.fact("memory"), rows.fact("manifest")
    except Damaged as fault:
        raise LocalFault(f"the store is damaged: {fault}; start the daemon to mend it") from None
    if memory is None or manifest is None:
        raise LocalFault("this device knows no owner manifest yet: nothing can be audited")
    journal, lost = rows.journal()
    if lost:
        raise LocalFault(f"{lost[0].says}; start the daemon to mend the store")

    def proof(round_: int, kind: str) -> bytes | None:
        try:
            return rows.proof(round_, kind)
        except Damaged:
            return None

    return Kept(memory_of(memory[_NUMBER_BYTES:]), manifest, tuple(journal), proof)


def tell(findings: list[Finding], as_json: bool) -> None:
    if as_json:
        rounds: list[Any] = [vars(finding) for finding in findings]
        print(json.dumps({"well": all(it.well for it in findings), "rounds": rounds}))
        return
    for it in findings:
        print(f"{'ok ' if it.well else 'BAD'} round {it.round:5}  {it.says}")
    bad = sum(not it.well for it in findings)
    counted = sum(it.state == "counted" for it in findings)
    print(f"{len(findings)} rounds, {counted} updates counted once, {bad} in doubt")

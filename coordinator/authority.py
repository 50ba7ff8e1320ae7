"""In whose name the coordinator acts: its key, and the owner's manifest that names it."""

from dataclasses import dataclass, field
from pathlib import Path

from coordinator.config import CoordinatorConfig
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import Suite, suite_of_verify_key
from qflare.faults import LocalFault, PeerFault
from qflare.host.config import ConfigFault, read_file
from qflare.host.keystore.settings import load_seed, sealers
from qflare.messages import KIB
from qflare.names import FleetId
from qflare.owners import open_manifest
from qflare.policy import OwnerManifest


@dataclass(frozen=True)
class Authority:
    """What belongs together, verified."""

    fleet: FleetId
    owner: VerifyKey
    key: SigningKey = field(repr=False)
    manifest: OwnerManifest
    signed: bytes = field(repr=False)  # the manifest as the owner signed it


def load_authority(config: CoordinatorConfig) -> Authority:
    """Read key and manifest and see that they belong together; raise ConfigFault."""
    own = config.coordinator
    try:
        fleet = FleetId.parse(own.fleet)
        raw = read_file(own.owner_key, 64 * KIB)
        owner = VerifyKey.parse(suite_of_verify_key(raw), raw)
        signed = read_file(own.manifest, OwnerManifest.CEILING + 64 * KIB)
        manifest, _ = open_manifest(signed, owner, fleet)
    except PeerFault as fault:
        raise ConfigFault(f"{own.manifest}: {fault}; correct [coordinator]") from None
    key = load_key(config, own.key, owner.suite)
    if manifest.coordinator_key != key.verify_key.raw:
        raise ConfigFault(f"{own.key} is not the coordinator key that {own.manifest} names")
    return Authority(fleet, owner, key, manifest, signed)


def load_key(config: CoordinatorConfig, path: Path, suite: Suite) -> SigningKey:
    """A signing key, whatever keeps its seed; raise ConfigFault."""
    try:
        return SigningKey.from_seed(suite, load_seed(path, config.keys, sealers(config.keys)))
    except LocalFault as fault:
        raise ConfigFault(str(fault)) from None

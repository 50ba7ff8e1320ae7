"""What an update needs to know of edge.toml: where the state is, whose device it is, brokers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault, PeerFault
from qflare.host import config as host_config
from qflare.host.config import ConfigFault, Part
from qflare.host.files import read_bounded
from qflare.names import FleetId

_KEY_MAX = 64 * 1024


class _Device(Part):
    fleet: str
    state_dir: Path
    owner_key: Path


class _Broker(Part):
    url: str
    fallbacks: Annotated[tuple[str, ...], Meta(max_length=8)] = ()


class _File(Part):
    device: _Device
    broker: _Broker


@dataclass(frozen=True, slots=True)
class Owned:
    """Whose device this is. Paths are absolute."""

    fleet: str
    state_dir: Path
    owner_key: Path
    brokers: tuple[str, ...]


def owned(path: Path) -> Owned:
    """Read that part of edge.toml, whatever else is in it: a version that is too old or too new for
    the rest must be able to update all the same. Raises ConfigFault.
    """
    part = host_config.load(_File, "edge", path).value
    base = path.resolve().parent
    device = part.device
    return Owned(
        fleet=device.fleet,
        state_dir=base / device.state_dir,
        owner_key=base / device.owner_key,
        brokers=(part.broker.url, *part.broker.fallbacks),
    )


def read_owner(path: Path) -> VerifyKey:
    """The owner's pinned verify key (raw); raise ConfigFault."""
    try:
        return VerifyKey.parse(DEFAULT, read_bounded(path, _KEY_MAX))
    except PeerFault as fault:
        raise ConfigFault(f"{path}: not an owner's key: {fault.detail}") from None
    except LocalFault as fault:
        raise ConfigFault(str(fault)) from None
    except OSError as error:
        raise ConfigFault(f"{path}: {error.strerror}; enrol the device first") from None


def fleet_of(owned_: Owned) -> FleetId:
    try:
        return FleetId.parse(owned_.fleet)
    except PeerFault as fault:
        raise ConfigFault(f"device.fleet: {fault.detail}; correct it in edge.toml") from None

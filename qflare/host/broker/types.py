"""What both brokers have in common."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

MAX_PACKET = 1024 * 1024  # bytes of a whole packet; chunks are far below
COORDINATOR = "coordinator"
DASHBOARD = "dashboard"


class BrokerKind(StrEnum):
    """A broker that we can configure and start."""

    MOSQUITTO = "mosquitto"
    NATS = "nats"


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """How to start a broker that has been configured, and where it will be.

    `enrol_url` is where tickets' accounts are let in, empty where none are. The files are the ones
    that qflare.host.broker.accounts keeps: of the devices, of the tickets (the same for a broker
    that has one file for all), and the process id to tell of a change.
    """

    kind: BrokerKind
    command: tuple[str, ...]
    url: str
    config_dir: Path
    enrol_url: str = ""
    device_accounts: Path = Path()
    token_accounts: Path = Path()
    pid_file: Path = Path()


@dataclass(frozen=True, slots=True)
class Account:
    """A name at the broker, and its password."""

    user: str
    password: str = field(repr=False)

"""What both brokers have in common."""

from dataclasses import dataclass
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
    """How to start a broker that has been configured, and where it will be."""

    kind: BrokerKind
    command: tuple[str, ...]
    url: str
    config_dir: Path

"""What the sensors saw, as plain values: the one thing that sensors and judgement share."""

from dataclasses import dataclass, field
from datetime import tzinfo
from enum import StrEnum
from typing import Generic, TypeVar


class Gate(StrEnum):
    """Everything that may stand in the way of training. The value is its name in edge.toml."""

    HOLD = "hold"
    POWER = "power"
    TEMPERATURE = "temperature"
    THROTTLING = "throttling"
    LOAD = "load"
    MEMORY = "memory"
    DISK = "disk"
    NETWORK = "network"
    WINDOWS = "windows"
    SAMPLES = "samples"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """One sensor's sight: a value, a trouble in reading it, both, or neither (no such sensor)."""

    value: T | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Power:
    """A board with a battery; `percent` is None if the battery doesn't say."""

    draining: bool
    percent: float | None


@dataclass(frozen=True, slots=True)
class Heat:
    """The hottest zone."""

    celsius: float
    zone: str


@dataclass(frozen=True, slots=True)
class Throttling:
    """In words, what slows the board now; empty if nothing does."""

    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """What others take: each in the unit of `settings.LoadGate`, None where it can't be told."""

    cpu: float | None = None
    memory_stall: float | None = None
    io_stall: float | None = None
    queue: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that new work may have, as /proc/meminfo estimates them."""

    available: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the state directory; `names` is None where it has no fixed number."""

    free: int  # bytes
    names: int | None  # of files that can still be made
    read_only: bool


@dataclass(frozen=True, slots=True)
class Network:
    """The way out. `metered` says by what we know that traffic costs, None if it doesn't."""

    interface: str
    metered: str | None
    kbit: float | None = None


@dataclass(frozen=True, slots=True)
class Time:
    """Wall clock, in seconds since 1970, and whether it is right (None: nobody can tell)."""

    wall: float
    zone: tzinfo
    right: bool | None


@dataclass(frozen=True, slots=True)
class Readings:
    """All of one look. What a sensor doesn't see has no gate."""

    hold: Seen[str] = field(default_factory=Seen)  # by whom and why; empty if nobody holds
    power: Seen[Power] = field(default_factory=Seen)
    temperature: Seen[Heat] = field(default_factory=Seen)
    throttling: Seen[Throttling] = field(default_factory=Seen)
    load: Seen[Load] = field(default_factory=Seen)
    memory: Seen[Memory] = field(default_factory=Seen)
    disk: Seen[Disk] = field(default_factory=Seen)
    network: Seen[Network] = field(default_factory=Seen)
    windows: Seen[Time] = field(default_factory=Seen)
    samples: Seen[int] = field(default_factory=Seen)


@dataclass(frozen=True, slots=True)
class Told:
    """What only the daemon knows.

    `children` are the processes that train for us. `new_samples` came since the last update that
    was counted. `kbit` is the rate of recent transfers. `clock_right` says whether somebody
    trusted has confirmed the time; None if nobody has spoken.
    """

    training: bool = False
    children: tuple[int, ...] = ()
    new_samples: int | None = None
    kbit: float | None = None
    clock_right: bool | None = None

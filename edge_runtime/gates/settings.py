"""The `[gates]` section of edge.toml: when a device may train.

Each gate closes at one bound and opens at another, so that a reading that wavers between them
changes nothing. The defaults suit a board on mains power without any battery.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from qflare.host.config import Settings

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
# In the order of datetime.weekday().
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Clock = Annotated[str, Meta(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
_Patterns = Annotated[tuple[str, ...], Meta(max_length=64)]


class Floor(Settings):
    """A reading below `closes` closes the gate, one from `opens` up opens it."""

    closes: Annotated[float, Meta(ge=0, le=1e9)]
    opens: Annotated[float, Meta(ge=0, le=1e9)]

    def __post_init__(self) -> None:
        if not self.closes < self.opens:
            raise ValueError("opens: Expected more than `closes`")


class Ceiling(Settings):
    """A reading above `closes` closes the gate, one down to `opens` opens it."""

    closes: Annotated[float, Meta(ge=0, le=1e9)]
    opens: Annotated[float, Meta(ge=0, le=1e9)]

    def __post_init__(self) -> None:
        if not self.opens < self.closes:
            raise ValueError("opens: Expected less than `closes`")


class HoldGate(Settings):
    """While the file exists nothing trains; its first line says why. For people and programs."""

    enabled: bool = True
    file: Path = Path("/run/qflare/hold")


class PowerGate(Settings):
    """Level of the battery in percent, looked at while it drains. No battery, no gate."""

    enabled: bool = True
    battery: Floor = Floor(20, 30)
    mains_only: bool = False


class TemperatureGate(Settings):
    """Of the hottest zone, in °C; without `celsius`, the board's limits or 75 and 65.

    `ignore` has patterns of zone types: the PMIC of older Jetsons says 100 °C whatever happens.
    """

    enabled: bool = True
    celsius: Ceiling | None = None
    ignore: _Patterns = ("PMIC-Die",)


class ThrottlingGate(Settings):
    """Slowed by heat, low voltage or too much current, as kernel or firmware say."""

    enabled: bool = True
    vcgencmd: bool = True  # ask the firmware by that program where sysfs doesn't say it


class LoadGate(Settings):
    """What the device's other programs take; our own training doesn't count.

    `cpu`: percent of all cores. `memory_stall`, `io_stall`: percent of the last minute in which
    something waited for memory or for storage. `queue`: programs that run or wait for storage,
    per core; it stands in for the stalls where the kernel doesn't measure those.
    """

    enabled: bool = True
    cpu: Ceiling = Ceiling(75, 50)
    memory_stall: Ceiling = Ceiling(10, 2)
    io_stall: Ceiling = Ceiling(50, 20)
    queue: Ceiling = Ceiling(2, 1)


class MemoryGate(Settings):
    """MiB that the kernel deems available to new work."""

    enabled: bool = True
    available_mib: Floor = Floor(48, 96)


class DiskGate(Settings):
    """MiB free where the device keeps its state."""

    enabled: bool = True
    free_mib: Floor = Floor(64, 128)


class NetworkGate(Settings):
    """Of the way to the Internet: `metered` says what to do when traffic costs.

    An interface that fits neither list is metered if it is a modem, or if NetworkManager says so.
    `kbit`: kilobits a second that transfers reached lately.
    """

    enabled: bool = True
    metered: Literal["wait", "use"] = "wait"
    metered_interfaces: _Patterns = ("wwan*", "wwp*", "ppp*")
    unmetered_interfaces: _Patterns = ()
    kbit: Floor | None = None


class SamplesGate(Settings):
    """New samples that a round wants; what has arrived since the last update that was counted."""

    new: Annotated[int, Meta(ge=0, le=10**9)] = 0


class Window(Settings):
    """A time of day, every week. One that ends before it starts ends on the next day."""

    start: Clock
    end: Clock
    days: tuple[Day, ...] = DAYS  # on which it starts

    def __post_init__(self) -> None:
        if self.start == "24:00":
            raise ValueError("start: Expected 00:00 of the next day, not 24:00")
        if not self.days:
            raise ValueError("days: Expected one day or more")


class GatesSection(Settings):
    """All of `[gates]`.

    A gate that has closed stays so for `rest_seconds`; one that isn't urgent (load, network)
    stays open for `settle_seconds`. Without `windows` a device trains at any time of day; their
    hours are of `timezone` (a name such as "Europe/Berlin"), or else the system's.
    """

    enabled: bool = True
    every_seconds: Annotated[float, Meta(ge=5, le=300)] = 15.0
    rest_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 120.0
    settle_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    timezone: Annotated[str, Meta(max_length=64)] | None = None
    windows: Annotated[tuple[Window, ...], Meta(max_length=64)] = ()
    hold: HoldGate = HoldGate()
    power: PowerGate = PowerGate()
    temperature: TemperatureGate = TemperatureGate()
    throttling: ThrottlingGate = ThrottlingGate()
    load: LoadGate = LoadGate()
    memory: MemoryGate = MemoryGate()
    disk: DiskGate = DiskGate()
    network: NetworkGate = NetworkGate()
    samples: SamplesGate = SamplesGate()

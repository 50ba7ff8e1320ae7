"""How a device is, for its operator: one signed message, seldom said. Pure."""

from dataclasses import dataclass, field
from typing import ClassVar, Final

from qflare.messages import KIB, Message
from qflare.names import DeviceId, FleetId
from qflare.record import Record, check

WORDS_MAX: Final = 200  # characters of any text
GATES_MAX: Final = 16
FIGURES_MAX: Final = 32
NOTICES_MAX: Final = 4


@dataclass(frozen=True)
class GateSays(Record):
    """One gate: how it stands (open, closed, absent or off), and its reading or reason."""

    CEILING: ClassVar[int] = KIB

    gate: str
    standing: str
    says: str

    def __post_init__(self) -> None:
        short = len(self.gate) <= 40 and len(self.standing) <= 40
        check(short and len(self.says) <= WORDS_MAX, "gate: too long")


@dataclass(frozen=True)
class Health(Record):
    """What there is to say of a device; a text that has nothing to say is empty.

    Figures are whole numbers by name, sorted; the unit ends the name: celsius, battery_percent,
    disk_free_mb, disk_wear_percent, state_kb, written_kb, memory_mb, training_limit_mb, uptime_s,
    error_age_s.
    """

    CEILING: ClassVar[int] = 8 * KIB

    version: str = ""  # of the daemon
    board: str = ""  # its profile's name
    power_mode: str = ""  # a Jetson's
    update: str = ""  # how updates of QFLARE stand
    error: str = ""  # the last one
    gates: tuple[GateSays, ...] = ()
    notices: tuple[str, ...] = ()  # what somebody should do about it
    figures: tuple[tuple[str, int], ...] = field(default=())

    def __post_init__(self) -> None:
        texts = (self.version, self.board, self.power_mode, self.update, self.error, *self.notices)
        check(all(len(text) <= WORDS_MAX for text in texts), "health: too long")
        check(len(self.gates) <= GATES_MAX and len(self.notices) <= NOTICES_MAX, "health: too many")
        names = [name for name, _ in self.figures]
        check(names == sorted(set(names)) and len(names) <= FIGURES_MAX, "health: figures")
        fits = all(len(name) <= 40 and abs(value) < 2**53 for name, value in self.figures)
        check(fits, "health: figure")

    @property
    def standing(self) -> tuple[object, ...]:
        """What is worth saying soon when it changes; readings that waver aren't."""
        gates = tuple((gate.gate, gate.standing) for gate in self.gates)
        return (self.version, self.board, self.power_mode, self.update, self.error, gates)


@dataclass(frozen=True)
class DeviceReport(Message):
    """Device to coordinator, signed. `session` and `number` order a device's reports."""

    TAG: ClassVar[int] = 15
    CEILING: ClassVar[int] = 9 * KIB
    CONTEXT: ClassVar[str] = "device-report"

    fleet: FleetId
    device: DeviceId
    session: int
    number: int  # of this session, from 1 on
    health: Health

    def __post_init__(self) -> None:
        check(0 <= self.session < 2**63 and 1 <= self.number < 2**31, "report: number")

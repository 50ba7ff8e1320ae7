"""What laptop and device say to each other. Pure.

The device speaks first after a link is open: `Hello`, in the clear. The laptop answers `Begin`, and
from then on every message is sealed (secrecy.py). Each of the laptop's requests is answered by
`Progress`, as often as there is some, and then by `Done` or `Failed`. A request that was carried
out before is answered at once, so running everything again is how an interruption is mended.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from qflare.crypto.suites import DEFAULT
from qflare.faults import Reason
from qflare.messages import KIB, Message
from qflare.record import Record, check

PROTOCOL: Final = 1
TICKET_MAX: Final = 96 * KIB  # a usual one has 20
SETTINGS_MAX: Final = 16 * KIB
TEXT_MAX: Final = 2 * KIB
FACTS_MAX: Final = 64
PATTERN_MAX: Final = 8 * KIB


class Step(StrEnum):
    """What is done to a device, in this order."""

    NETWORK = "network"
    CLOCK = "clock"
    TICKET = "ticket"
    SETTINGS = "settings"
    ENROL = "enrol"
    TEST = "test"
    FINISH = "finish"


class Trouble(StrEnum):
    """Why a step failed on the device; the laptop has the words for what to do."""

    CLOCK = "clock"  # can't be set
    NETWORK = "network"  # settings refused by the system
    TICKET = "ticket"  # refused by the device
    USED = "used"  # the coordinator knows the ticket as used
    EXPIRED = "expired"
    WRONG_BOARD = "wrong_board"
    WAITING = "waiting"  # for the operator's approval; the device goes on by itself
    UNREACHABLE = "unreachable"  # no network or broker; the device goes on by itself
    REFUSED = "refused"  # by the coordinator, for another reason
    SETTINGS = "settings"
    STORAGE = "storage"
    TEST = "test"
    ORDER = "order"  # asked for before what must come first
    INTERNAL = "internal"


def _short(text: str, limit: int = TEXT_MAX) -> None:
    check(len(text) <= limit, "text too long", Reason.TOO_LARGE)


def _facts(facts: tuple[tuple[str, str], ...]) -> None:
    check(len(facts) <= FACTS_MAX, "too many facts", Reason.TOO_LARGE)
    for name, value in facts:
        _short(name, 64)
        _short(value, 512)


# --- in the clear -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello(Message):
    """Device: who I am. Nothing in it is secret, and nothing is proven by it.

    `clock` in seconds since 1970, `memory` and `disk` (free) in bytes, `bits` of the user space.
    `key` is the device's KEM key for provisioning, whose words a person compares; `session` is
    fresh for every link. `name` and `fingerprint` are empty before enrolment.
    """

    TAG: ClassVar[int] = 1
    CEILING: ClassVar[int] = 8 * KIB

    protocol: int
    version: str
    session: bytes
    key: bytes
    board: str
    model: str
    serial: str
    machine: str
    bits: int
    clock: float
    memory: int
    disk: int
    done: tuple[Step, ...]
    name: str
    fingerprint: bytes

    def __post_init__(self) -> None:
        check(len(self.session) == 16, "a session has 16 bytes")
        check(len(self.key) == DEFAULT.kem_public_length, "key: wrong length")
        check(len(self.fingerprint) in (0, 32), "fingerprint: wrong length")
        check(len(self.done) <= len(Step), "done: too many steps")
        check(0 <= self.memory < 2**53 and 0 <= self.disk < 2**53, "memory or disk: bad size")
        check(0 <= self.clock < 2**40, "clock: bad time")
        for text in (self.version, self.board, self.model, self.serial, self.machine, self.name):
            _short(text, 128)


@dataclass(frozen=True)
class Begin(Message):
    """Laptop: the session's secret, sealed to the device's key and bound to its hello."""

    TAG: ClassVar[int] = 2
    CEILING: ClassVar[int] = 4 * KIB

    sealed: bytes


# --- requests, sealed ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Wifi(Record):
    """A wireless network; `passphrase` is empty for an open one. `country`: ISO 3166, or empty."""

    CEILING: ClassVar[int] = KIB

    ssid: str
    passphrase: str
    country: str
    hidden: bool

    def __post_init__(self) -> None:
        check(1 <= len(self.ssid.encode()) <= 32, "ssid: between 1 and 32 bytes")
        length = len(self.passphrase.encode())
        key = length == 64 and set(self.passphrase) <= set("0123456789abcdefABCDEF")
        good = length == 0 or 8 <= length <= 63 or key
        check(good, "passphrase: between 8 and 63 characters, or a key of 64 hexadecimal digits")
        check(self.ssid.isprintable() and self.passphrase.isprintable(), "ssid or passphrase")
        ascii_country = self.country.isascii() and self.country.isalpha() and len(self.country) == 2
        check(not self.country or ascii_country, "country: two letters, as DE")


@dataclass(frozen=True)
class Network(Message):
    """Laptop: how the device gets to its broker.

    Without `address` (with its prefix length, as 10.0.0.7/24) by DHCP and router advertisements.
    `apply` is off where the new network would cut the line that this travels on.
    """

    TAG: ClassVar[int] = 10
    CEILING: ClassVar[int] = 4 * KIB

    wifi: Wifi | None
    address: str
    gateway: str
    dns: tuple[str, ...]
    apply: bool

    def __post_init__(self) -> None:
        check(len(self.dns) <= 4, "dns: at most four servers")
        for text in (self.address, self.gateway, *self.dns):
            _short(text, 64)


@dataclass(frozen=True)
class Clock(Message):
    """Laptop: the time is this, seconds since 1970."""

    TAG: ClassVar[int] = 11
    CEILING: ClassVar[int] = 64

    time: float

    def __post_init__(self) -> None:
        check(1.7e9 < self.time < 2**40, "time: not one of our days")


@dataclass(frozen=True)
class GiveTicket(Message):
    """Laptop: the single-use ticket, and the owner's key that its signatures lead to."""

    TAG: ClassVar[int] = 12
    CEILING: ClassVar[int] = TICKET_MAX + 4 * KIB

    ticket: bytes
    owner_key: bytes

    def __post_init__(self) -> None:
        check(0 < len(self.ticket) <= TICKET_MAX, "ticket: bad size", Reason.TOO_LARGE)
        check(len(self.owner_key) <= 4 * KIB, "owner_key: bad size", Reason.TOO_LARGE)


@dataclass(frozen=True)
class Settings(Message):
    """Laptop: sections of edge.toml beside those that enrolment fills."""

    TAG: ClassVar[int] = 13
    CEILING: ClassVar[int] = SETTINGS_MAX + 64

    toml: str

    def __post_init__(self) -> None:
        check(len(self.toml.encode()) <= SETTINGS_MAX, "settings: too long", Reason.TOO_LARGE)


@dataclass(frozen=True)
class Enrol(Message):
    """Laptop: make your keys and enrol now; say within `seconds` how it stands."""

    TAG: ClassVar[int] = 14
    CEILING: ClassVar[int] = 64

    seconds: int

    def __post_init__(self) -> None:
        check(1 <= self.seconds <= 3600, "seconds: between 1 and 3600")


@dataclass(frozen=True)
class Test(Message):
    """Laptop: test yourself. `training` also trains a small model for some seconds."""

    TAG: ClassVar[int] = 15
    CEILING: ClassVar[int] = 64
    __test__: ClassVar[bool] = False  # no test case, whatever a test runner makes of the name

    training: bool


@dataclass(frozen=True)
class Echo(Message):
    """Laptop: say this again. The serial line's own test."""

    TAG: ClassVar[int] = 16
    CEILING: ClassVar[int] = PATTERN_MAX + 64

    pattern: bytes


@dataclass(frozen=True)
class Finish(Message):
    """Laptop: all is done; remember it, and let the line go."""

    TAG: ClassVar[int] = 17
    CEILING: ClassVar[int] = 64


Request = Network | Clock | GiveTicket | Settings | Enrol | Test | Echo | Finish
REQUESTS: Final = (Network, Clock, GiveTicket, Settings, Enrol, Test, Echo, Finish)

# --- answers, sealed ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress(Message):
    """Device: still at it."""

    TAG: ClassVar[int] = 20
    CEILING: ClassVar[int] = 4 * KIB

    text: str

    def __post_init__(self) -> None:
        _short(self.text)


@dataclass(frozen=True)
class Done(Message):
    """Device: it is done. `facts` are what came of it, (name, value)."""

    TAG: ClassVar[int] = 21
    CEILING: ClassVar[int] = 48 * KIB

    text: str
    facts: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        _short(self.text)
        _facts(self.facts)


@dataclass(frozen=True)
class Failed(Message):
    """Device: it isn't done, and why."""

    TAG: ClassVar[int] = 22
    CEILING: ClassVar[int] = 4 * KIB

    trouble: Trouble
    text: str

    def __post_init__(self) -> None:
        _short(self.text)


@dataclass(frozen=True)
class Echoed(Message):
    """Device: the pattern again."""

    TAG: ClassVar[int] = 23
    CEILING: ClassVar[int] = PATTERN_MAX + 64

    pattern: bytes


Answer = Progress | Done | Failed | Echoed
ANSWERS: Final = (Progress, Done, Failed, Echoed)

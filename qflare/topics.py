"""Every topic of the protocol: built, parsed and permitted in this one place.

A topic has a fixed number of segments per shape, so that one filter subscribes to one shape, and
names what it carries in full: `parse(build(t)) == t`, and whatever parses builds back to the same
text. The rules that say who may read and write which topic live here too; each broker's access
list is generated from them, never written by hand.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from qflare.faults import PeerFault, Reason
from qflare.names import DeviceId, Digest, FleetId

ROOT = "qflare"
VERSION = "1"
TOPIC_MAX = 192  # characters; the longest topic that we build has under 170
INDEX_MAX = 2**20 - 1  # the last chunk of a transfer can have this number
DEVICE_SLOT = "%u"  # where a device's name (or a ticket's user) goes in a rule for all of them

_INDEX = re.compile(r"0|[1-9][0-9]{0,6}")
_METRIC = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?")
_TOKEN = re.compile(r"[0-9a-f]{32}")


class Up(StrEnum):
    """What a device sends."""

    HELLO = "hello"
    OFFER = "offer"
    ASK = "ask"
    TELEMETRY = "telemetry"
    REPORT = "report"


class Down(StrEnum):
    """What the coordinator sends to one device."""

    GRANT = "grant"
    RECEIPT = "receipt"
    ANSWER = "answer"
    CERTIFICATE = "certificate"


class All(StrEnum):
    """What the coordinator sends to the whole fleet; all but HELLO are retained."""

    MANIFEST = "manifest"
    OFFER = "offer"
    MODEL = "model"
    HELLO = "hello"
    ROLLOUT = "rollout"


def _check_index(index: int) -> None:
    if not 0 <= index <= INDEX_MAX:
        raise PeerFault(Reason.BAD_VALUE, f"chunk index {index} outside 0…{INDEX_MAX}")


@dataclass(frozen=True, slots=True)
class UpTopic:
    """From a device to the coordinator."""

    fleet: FleetId
    device: DeviceId
    kind: Up


@dataclass(frozen=True, slots=True)
class UpChunk:
    """One chunk of a transfer from a device; `transfer` is the digest of the whole."""

    fleet: FleetId
    device: DeviceId
    transfer: Digest
    index: int

    def __post_init__(self) -> None:
        _check_index(self.index)


@dataclass(frozen=True, slots=True)
class DownTopic:
    """From the coordinator to one device."""

    fleet: FleetId
    device: DeviceId
    kind: Down


@dataclass(frozen=True, slots=True)
class DownChunk:
    """One chunk of a transfer to one device."""

    fleet: FleetId
    device: DeviceId
    transfer: Digest
    index: int

    def __post_init__(self) -> None:
        _check_index(self.index)


@dataclass(frozen=True, slots=True)
class StateTopic:
    """A device's retained state, its last will included."""

    fleet: FleetId
    device: DeviceId


@dataclass(frozen=True, slots=True)
class AllTopic:
    """From the coordinator to everyone."""

    fleet: FleetId
    kind: All


@dataclass(frozen=True, slots=True)
class AllChunk:
    """One chunk of a transfer to everyone, published once."""

    fleet: FleetId
    transfer: Digest
    index: int

    def __post_init__(self) -> None:
        _check_index(self.index)


@dataclass(frozen=True, slots=True)
class CoordinatorState:
    """The coordinator's retained state, its last will included."""

    fleet: FleetId


@dataclass(frozen=True, slots=True)
class CoordinatorMetric:
    """A retained figure for people to look at; `name` is a lower-case label."""

    fleet: FleetId
    name: str

    def __post_init__(self) -> None:
        if not _METRIC.fullmatch(self.name):
            raise PeerFault(Reason.BAD_VALUE, f"metric {self.name[:40]!r}: want [a-z0-9-], 1-32")


@dataclass(frozen=True, slots=True)
class EnrolUp:
    """From whoever holds a ticket to the coordinator; `token` is the ticket's number, 16 bytes."""

    fleet: FleetId
    token: bytes


@dataclass(frozen=True, slots=True)
class EnrolDown:
    """From the coordinator to whoever holds a ticket."""

    fleet: FleetId
    token: bytes


Topic = (
    UpTopic
    | UpChunk
    | DownTopic
    | DownChunk
    | StateTopic
    | AllTopic
    | AllChunk
    | CoordinatorState
    | CoordinatorMetric
    | EnrolUp
    | EnrolDown
)


def build(topic: Topic) -> str:
    """Return the topic's one spelling."""
    match topic:
        case UpTopic(fleet, device, kind):
            tail = f"{device}/up/{kind}"
        case UpChunk(fleet, device, transfer, index):
            tail = f"{device}/up/chunk/{transfer}/{index}"
        case DownTopic(fleet, device, down):
            tail = f"{device}/down/{down}"
        case DownChunk(fleet, device, transfer, index):
            tail = f"{device}/down/chunk/{transfer}/{index}"
        case StateTopic(fleet, device):
            tail = f"{device}/state"
        case AllTopic(fleet, to_all):
            tail = f"all/{to_all}"
        case AllChunk(fleet, transfer, index):
            tail = f"all/chunk/{transfer}/{index}"
        case CoordinatorState(fleet):
            tail = "coordinator/state"
        case CoordinatorMetric(fleet, name):
            tail = f"coordinator/metrics/{name}"
        case EnrolUp(fleet, token):
            tail = f"enrol/{token.hex()}/up"
        case EnrolDown(fleet, token):
            tail = f"enrol/{token.hex()}/down"
    return f"{ROOT}/{VERSION}/{fleet}/{tail}"


_Kind = TypeVar("_Kind", Up, Down, All)


def _kind(kinds: type[_Kind], text: str) -> _Kind:
    try:
        return kinds(text)
    except ValueError:
        raise PeerFault(Reason.WRONG_TOPIC, f"no kind {text[:40]!r}") from None


def _index(text: str) -> int:
    if not _INDEX.fullmatch(text):
        raise PeerFault(Reason.WRONG_TOPIC, f"chunk index {text[:20]!r}")
    return int(text)


def _token(text: str) -> bytes:
    if not _TOKEN.fullmatch(text):
        raise PeerFault(Reason.WRONG_TOPIC, f"ticket {text[:40]!r}")
    return bytes.fromhex(text)


def parse(text: str) -> Topic:
    """Parse a topic name; raise PeerFault (WRONG_TOPIC, BAD_VALUE, TOO_LARGE) on anything else."""
    if len(text) > TOPIC_MAX:
        raise PeerFault(Reason.TOO_LARGE, f"a topic of {len(text)} characters")
    match text.split("/"):
        case [root, version, fleet_text, *tail] if root == ROOT and version == VERSION:
            fleet = FleetId.parse(fleet_text)
        case _:
            raise PeerFault(Reason.WRONG_TOPIC, f"{text[:60]!r} is not below {ROOT}/{VERSION}")
    match tail:
        case ["all", "chunk", transfer, index]:
            return AllChunk(fleet, Digest.parse(transfer), _index(index))
        case ["all", kind]:
            return AllTopic(fleet, _kind(All, kind))
        case ["coordinator", "state"]:
            return CoordinatorState(fleet)
        case ["coordinator", "metrics", name]:
            return CoordinatorMetric(fleet, name)
        case ["enrol", token, "up"]:
            return EnrolUp(fleet, _token(token))
        case ["enrol", token, "down"]:
            return EnrolDown(fleet, _token(token))
        case [device, "state"]:
            return StateTopic(fleet, DeviceId.parse(device))
        case [device, "up", "chunk", transfer, index]:
            return UpChunk(fleet, DeviceId.parse(device), Digest.parse(transfer), _index(index))
        case [device, "up", kind]:
            return UpTopic(fleet, DeviceId.parse(device), _kind(Up, kind))
        case [device, "down", "chunk", transfer, index]:
            return DownChunk(fleet, DeviceId.parse(device), Digest.parse(transfer), _index(index))
        case [device, "down", kind]:
            return DownTopic(fleet, DeviceId.parse(device), _kind(Down, kind))
    raise PeerFault(Reason.WRONG_TOPIC, f"no topic has the shape of {text[:60]!r}")


@dataclass(frozen=True, slots=True)
class Access:
    """The filters that a principal may read and write; nothing else is permitted."""

    read: tuple[str, ...]
    write: tuple[str, ...]

    def for_device(self, device: DeviceId) -> "Access":
        """The rules for all devices, made out to one of them."""
        return Access(
            tuple(rule.replace(DEVICE_SLOT, device) for rule in self.read),
            tuple(rule.replace(DEVICE_SLOT, device) for rule in self.write),
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may do what on the broker. `device` carries DEVICE_SLOT where the name goes.

    `bootstrap` is for the accounts that tickets carry, and DEVICE_SLOT in it the ticket's number.
    """

    device: Access
    coordinator: Access
    dashboard: Access
    bootstrap: Access

    def for_token(self, user: str) -> Access:
        """The rules for all tickets, made out to the user name of one of them."""
        return Access(
            tuple(rule.replace(DEVICE_SLOT, user) for rule in self.bootstrap.read),
            tuple(rule.replace(DEVICE_SLOT, user) for rule in self.bootstrap.write),
        )


def rules(fleet: FleetId) -> Rules:
    """The fleet's access rules, from which every broker configuration is generated."""
    base = f"{ROOT}/{VERSION}/{fleet}"
    own = f"{base}/{DEVICE_SLOT}"
    return Rules(
        device=Access(
            read=(f"{own}/down/#", f"{base}/all/#", f"{base}/coordinator/state"),
            write=(f"{own}/up/#", f"{own}/state"),
        ),
        coordinator=Access(
            read=(f"{base}/+/up/#", f"{base}/+/state", f"{base}/enrol/+/up"),
            write=(
                f"{base}/+/down/#",
                f"{base}/all/#",
                f"{base}/coordinator/#",
                f"{base}/enrol/+/down",
            ),
        ),
        dashboard=Access(
            read=(f"{base}/+/state", f"{base}/coordinator/#", f"{base}/all/#"),
            write=(),
        ),
        bootstrap=Access(
            read=(f"{base}/enrol/{DEVICE_SLOT}/down",),
            write=(f"{base}/enrol/{DEVICE_SLOT}/up",),
        ),
    )


def device_filters(fleet: FleetId, device: DeviceId) -> tuple[str, ...]:
    """What a device subscribes to: exactly what it may read."""
    return rules(fleet).device.for_device(device).read


def coordinator_filters(fleet: FleetId) -> tuple[str, ...]:
    """What the coordinator subscribes to; the second one brings back its own state too."""
    return rules(fleet).coordinator.read[:2]


def enrolment_filter(fleet: FleetId) -> str:
    """What the coordinator subscribes to as well where enrolment is on."""
    return rules(fleet).coordinator.read[2]


def token_user(token: bytes) -> str:
    """The user name of a ticket's broker account."""
    return token.hex()


def dashboard_filters(fleet: FleetId) -> tuple[str, ...]:
    """What the operator's dashboard subscribes to."""
    return rules(fleet).dashboard.read


def matches(topic_filter: str, topic: str) -> bool:
    """Does an MQTT filter cover a topic name? (MQTT 5, section 4.7; `#` covers its parent.)"""
    return _matches(topic_filter.split("/"), topic.split("/"))


def _matches(pattern: Sequence[str], levels: Sequence[str]) -> bool:
    if pattern[0] in ("+", "#") and levels[0].startswith("$"):
        return False
    for i, part in enumerate(pattern):
        if part == "#":
            return i == len(pattern) - 1
        if i >= len(levels) or part not in ("+", levels[i]):
            return False
    return len(pattern) == len(levels)

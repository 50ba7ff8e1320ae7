"""Names and digests: parsed once, valid for ever."""

import hashlib
import re
from dataclasses import dataclass
from typing import NewType, Self

from qflare.faults import PeerFault, Reason

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
RESERVED = frozenset({"all", "coordinator", "enclave", "enrol", "dashboard"})

RoundId = NewType("RoundId", int)  # 1, 2, 3, … within a fleet; an abandoned round keeps its number
ROUND_MAX = 2**31 - 1


class _Name(str):
    """A host-name label of 1 to 32 characters [a-z0-9-]: safe in topics, paths, certificates."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return `text` as this name; raise PeerFault(BAD_VALUE) if it is none."""
        if not _NAME.fullmatch(text):
            raise PeerFault(Reason.BAD_VALUE, f"{cls.__name__} {text[:40]!r}: want [a-z0-9-], 1-32")
        return cls(text)


class FleetId(_Name):
    """The fleet's name, as in topics."""


class DeviceId(_Name):
    """A device's name: its certificate's common name, its MQTT user name and client id."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        name = super().parse(text)
        if name in RESERVED:
            raise PeerFault(Reason.BAD_VALUE, f"device name {text!r} is reserved")
        return name


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest, 32 bytes."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise PeerFault(Reason.BAD_VALUE, f"a digest has 32 bytes, not {len(self.raw)}")

    @classmethod
    def of(cls, *parts: bytes | memoryview) -> Self:
        """SHA-256 of the concatenated parts; name the domain in the first one."""
        h = hashlib.sha256()
        for part in parts:
            h.update(part)
        return cls(h.digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse 64 lower-case hexadecimal characters, the one spelling that `str` gives."""
        try:
            digest = cls(bytes.fromhex(text))
        except ValueError:
            raise PeerFault(Reason.BAD_VALUE, "not a hexadecimal digest") from None
        if str(digest) != text:
            raise PeerFault(Reason.BAD_VALUE, "digest not in its one spelling")
        return digest

    def __str__(self) -> str:
        return self.raw.hex()

    @property
    def short(self) -> str:
        """The first 12 hexadecimal characters, for people."""
        return self.raw.hex()[:12]


def parse_round(value: int) -> RoundId:
    """Return `value` as a round's number; raise PeerFault(BAD_VALUE) outside 1…2^31-1."""
    if not 1 <= value <= ROUND_MAX:
        raise PeerFault(Reason.BAD_VALUE, f"round {value} outside 1…{ROUND_MAX}")
    return RoundId(value)

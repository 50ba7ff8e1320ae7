"""What a release says of itself, signed by the fleet's owner. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import open_signed
from qflare.faults import Reason
from qflare.messages import KIB, Message
from qflare.names import Digest, FleetId
from qflare.record import Record, check

WHEELS_MAX: Final = 128
WHEEL_MAX: Final = 512 * KIB * KIB  # bytes of one wheel
NAME_MAX: Final = 100  # what a ustar header holds without a prefix
SEQUENCE_MAX: Final = 2**31 - 1
_WHEEL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!]*(-[A-Za-z0-9_.+!]+){4,5}\.whl")
_VERSION: Final = re.compile(r"[0-9][0-9a-z]*([.+][0-9a-z]+){0,12}")  # PEP 440, normalised
_PYTHON: Final = re.compile(r"3\.[1-9][0-9]?")


class Machine(StrEnum):
    """As `uname -m` says."""

    AARCH64 = "aarch64"
    X86_64 = "x86_64"


@dataclass(frozen=True)
class Wheel(Record):
    """One file of a bundle."""

    CEILING: ClassVar[int] = 256

    name: str
    size: int
    digest: Digest

    def __post_init__(self) -> None:
        ok = len(self.name) <= NAME_MAX and _WHEEL.fullmatch(self.name)
        check(bool(ok), f"wheel {self.name[:60]!r}: not a wheel's file name")
        check(0 < self.size <= WHEEL_MAX, f"{self.name}: size outside 1…{WHEEL_MAX}")

    @property
    def project(self) -> str:
        """The distribution's name, normalised (PEP 503)."""
        return self.name.partition("-")[0].replace("_", "-").replace(".", "-").lower()


@dataclass(frozen=True)
class ReleaseManifest(Message):
    """Owner to device, signed: install exactly these wheels, if you are such a device."""

    TAG: ClassVar[int] = 70
    CEILING: ClassVar[int] = 64 * KIB
    CONTEXT: ClassVar[str] = "release"

    fleet: FleetId | None  # None: any fleet of this owner
    version: str
    sequence: int  # a device never goes back to a lower one
    python: str  # "3.11"
    machine: Machine
    wheels: tuple[Wheel, ...]
    needs_bytes: int  # free on the disk of /opt/qflare before anything is installed

    def __post_init__(self) -> None:
        good = len(self.version) <= 64 and _VERSION.fullmatch(self.version)
        check(bool(good), f"version {self.version[:40]!r}: want e.g. 1.2.3")
        check(1 <= self.sequence <= SEQUENCE_MAX, "release: sequence outside 1…2^31-1")
        check(bool(_PYTHON.fullmatch(self.python)), "release: want Python as 3.11")
        check(1 <= len(self.wheels) <= WHEELS_MAX, f"release: between 1 and {WHEELS_MAX} wheels")
        projects = [wheel.project for wheel in self.wheels]
        check(len(set(projects)) == len(projects), "release: two wheels of one project")
        names = [wheel.name for wheel in self.wheels]
        check(names == sorted(names), "release: wheels not in the order of their names")
        ours = any(name.startswith(f"qflare-{self.version}-") for name in names)
        check(ours, f"release: no wheel of qflare {self.version} among them")
        check(0 < self.needs_bytes < 2**40, "release: needs_bytes outside 1…2^40")

    @property
    def digest(self) -> Digest:
        """What a device remembers a release by."""
        return Digest.of(b"qflare/1/release\0", self.to_bytes())


SIGNED_MAX: Final = ReleaseManifest.CEILING + DEFAULT.signature_length + 64


def open_manifest(signed: bytes, owner: VerifyKey) -> ReleaseManifest:
    """Verify, then parse; raise PeerFault."""
    return open_signed(ReleaseManifest, signed, owner)


def verify_for(
    manifest: ReleaseManifest, fleet: FleetId | None, python: str, machine: str, lowest: int
) -> None:
    """Raise PeerFault unless the release is for such a device; `lowest` is the sequence that runs.

    A device without a fleet (while an image is built) takes any.
    """
    check(
        fleet is None or manifest.fleet in (None, fleet),
        f"a release for fleet {manifest.fleet}, and this is {fleet}",
        Reason.WRONG_FLEET,
    )
    check(manifest.machine == machine, f"it is for {manifest.machine}, and this is {machine}")
    check(manifest.python == python, f"it is for Python {manifest.python}, and this is {python}")
    check(
        manifest.sequence > lowest,
        f"its number is {manifest.sequence}, and {lowest} was here already",
        Reason.ROLLBACK,
    )

"""What the coordinator says to all of new versions: which bundles there are, and for whom. Pure.

A bundle is trusted by the owner's signature in it (release.py). What is said here only keeps
devices from asking for what isn't there, and lets a few of them have a new version before others.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from qflare.messages import CHUNK_MAX, KIB, Message
from qflare.names import DeviceId, Digest, FleetId
from qflare.record import Record, check

BUNDLES_MAX: Final = 8  # as many kinds of devices as a fleet may have
BUNDLE_MAX: Final = 512 * KIB * KIB  # bytes
CHUNK: Final = CHUNK_MAX  # bytes of every chunk but the last
PERMILLE: Final = 1000


@dataclass(frozen=True)
class BundleOffer(Record):
    """One bundle, and the share of the fleet that may have it."""

    CEILING: ClassVar[int] = 64

    bundle: Digest  # SHA-256 of the file
    size: int  # bytes
    permille: int

    def __post_init__(self) -> None:
        check(0 < self.size <= BUNDLE_MAX, "rollout: bad size")
        check(0 <= self.permille <= PERMILLE, "rollout: permille outside 0…1000")

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.size // CHUNK)

    def length(self, index: int) -> int:
        """Bytes of one chunk."""
        return min(CHUNK, self.size - index * CHUNK)

    def reaches(self, device: DeviceId) -> bool:
        """May this device have it? Whoever may still may when the share grows."""
        drawn = Digest.of(b"qflare/1/rollout\0", self.bundle.raw, str(device).encode("ascii"))
        return int.from_bytes(drawn.raw[:8], "big") % PERMILLE < self.permille


@dataclass(frozen=True)
class Rollout(Message):
    """Coordinator to all, retained, signed: these bundles can be had."""

    TAG: ClassVar[int] = 14
    CEILING: ClassVar[int] = KIB
    CONTEXT: ClassVar[str] = "rollout"

    fleet: FleetId
    bundles: tuple[BundleOffer, ...]

    def __post_init__(self) -> None:
        check(len(self.bundles) <= BUNDLES_MAX, f"rollout: more than {BUNDLES_MAX} bundles")

"""What the enclave remembers, as one record that is sealed to its platform and replaced whole.

Weights and optimiser state are held once: they are those of the last release, or, before there
is one, those that the open round starts from.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from qflare.enclave_wire import OpenRound, RoundOpened
from qflare.faults import LocalFault, PeerFault
from qflare.messages import BLOB_MAX, KIB
from qflare.names import Digest
from qflare.policy import RoundPolicy
from qflare.record import Record, check

VERSION = 2


@dataclass(frozen=True, repr=False)
class Opened(Record):
    """A round that was opened and not yet released or abandoned."""

    CEILING: ClassVar[int] = RoundOpened.CEILING + 8 * KIB

    request: Digest  # of the OpenRound that it answers
    policy: RoundPolicy
    seed: Digest  # the cohort was drawn from this
    kem_seed: bytes
    reply: bytes  # the RoundOpened, so that asking again gets the same bytes


@dataclass(frozen=True, repr=False)
class State(Record):
    """Everything that outlives the process."""

    CEILING: ClassVar[int] = 2 * BLOB_MAX + 1024 * KIB

    version: int
    signing_seed: bytes
    seed_secret: bytes  # HMAC key of the chain of cohort seeds
    epoch: int  # of the last KEM key that was made
    highest_round: int  # that was ever opened; lower and equal numbers are spent
    manifest: bytes  # signed; empty before Configure
    opened: Opened | None
    receipt: bytes  # signed, of the last release; empty before there is one
    weights: bytes
    optimiser: bytes

    def __post_init__(self) -> None:
        check(self.version == VERSION, f"state of version {self.version}")
        check(0 <= self.epoch < 2**63 and 0 <= self.highest_round < 2**31, "state: bad counter")
        check(len(self.seed_secret) == 32, "state: bad secret")

    @classmethod
    def restore(cls, data: bytes) -> Self:
        """Parse what `to_bytes` gave; raise LocalFault for anything else, as it is our own."""
        try:
            return cls.parse(data)
        except PeerFault as fault:
            raise LocalFault(
                f"the enclave's state cannot be read ({fault}); run the version that wrote it, or "
                "move it away and let the coordinator present its last receipt"
            ) from None

    def closed(self) -> Self:
        """Without the open round and its KEM key."""
        return replace(self, opened=None)


def request_digest(request: OpenRound) -> Digest:
    """By which the same request is known again."""
    return Digest.of(b"qflare/1/open-round\0", request.to_bytes())

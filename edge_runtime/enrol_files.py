"""What an enrolment leaves in the device's directory, and in which order.

    owner.key        the fleet owner's verify key, pinned by the first ticket or by the image
    device.seed      the ML-DSA seed, 0600; made here, never leaves
    enrolling        the request that stands, and the KEM seed for its grant, 0600
    device.der, broker.password, broker-ca.pem
    enrolled.json    written last: it is there when all the rest is

Each is replaced whole (see qflare.host.files), so that after a cut at any point the next run finds
the same key and the same request, and ends as the same device.
"""

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from edge_runtime.enrol_exchange import Keys
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import NONCE_LENGTH, EnrolGrant, EnrolRequest, Ticket, fingerprint_words
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import read_bounded, sync_dir, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode
from qflare.messages import KIB
from qflare.names import DeviceId, Digest, FleetId
from qflare.record import Record

OWNER, SEED, PENDING = "owner.key", "device.seed", "enrolling"
CERTIFICATE, PASSWORD, CA, MARKER = (
    "device.der",
    "broker.password",
    "broker-ca.pem",
    "enrolled.json",
)


@dataclass(frozen=True)
class Enrolled:
    """A device that is in: who it is, and where its brokers are."""

    name: DeviceId
    fingerprint: Digest  # of the device's verify key: what people compare
    fleet: FleetId
    brokers: tuple[str, ...]
    private_ca: bool  # the brokers are checked by broker-ca.pem, not by the system's CAs

    @property
    def words(self) -> str:
        """The fingerprint, for people."""
        return " ".join(fingerprint_words(self.fingerprint))


class Marker(Typed):
    """enrolled.json"""

    fleet: str
    name: str
    fingerprint: str
    token: str
    brokers: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)]
    private_ca: bool
    board: str
    serial: str
    enrolled_at: int  # Unix seconds, by the coordinator's clock


@dataclass(frozen=True)
class _Pending(Record):
    CEILING: ClassVar[int] = 16 * KIB

    request: EnrolRequest
    kem_seed: bytes


class EnrolFiles:
    """The files of one directory; the caller holds its lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def marker(self) -> tuple[Enrolled, str] | None:
        """Who this device is already, with its ticket's number; None before that."""
        path = self.directory / MARKER
        try:
            marker = decode(Marker, read_bounded(path, 64 * KIB))
            enrolled = Enrolled(
                name=DeviceId.parse(marker.name),
                fingerprint=Digest.parse(marker.fingerprint),
                fleet=FleetId.parse(marker.fleet),
                brokers=marker.brokers,
                private_ca=marker.private_ca,
            )
        except FileNotFoundError:
            return None
        except (Unfit, PeerFault) as error:
            raise LocalFault(
                f"{path}: {error}; restore it, or remove it and enrol again with a fresh ticket"
            ) from None
        return enrolled, marker.token

    def tidy(self) -> None:
        """Once the marker is there, the request and its KEM seed are of no more use."""
        with suppress(FileNotFoundError):
            (self.directory / PENDING).unlink()
            sync_dir(self.directory)

    def pin_owner(self, offered: bytes) -> bool:
        """Pin the owner key at first sight; True if it was pinned just now.

        Raises LocalFault if another one is pinned.
        """
        path = self.directory / OWNER
        try:
            pinned = read_bounded(path, 64 * KIB)
        except FileNotFoundError:
            write_atomic(path, offered, 0o644)
            return True
        if pinned != offered:
            raise LocalFault(
                f"{path}: this device belongs to another owner than the ticket; take a ticket of "
                "its own fleet, or hand the device over by `qflare device forget` and without this "
                "file"
            )
        return False

    def device_key(self) -> SigningKey:
        """The device's key; made, and durable, when there is none."""
        path = self.directory / SEED
        try:
            return SigningKey.from_seed(DEFAULT, read_bounded(path, KIB))
        except FileNotFoundError:
            key = SigningKey.generate(DEFAULT)
            write_atomic(path, key.to_seed())
            return key

    def request(
        self, ticket: Ticket, key: SigningKey, name: DeviceId, board: str, serial: str
    ) -> tuple[EnrolRequest, Keys]:
        """The request that stands for this ticket; made, and durable, when there is none."""
        pending = self._pending()
        if pending is None or not _answers(pending.request, ticket, key):
            kem = KemPrivateKey.generate(DEFAULT)
            request = EnrolRequest(
                fleet=ticket.fleet,
                token=ticket.token,
                suite=DEFAULT.name,
                name=name,
                verify_key=key.verify_key.raw,
                kem_key=kem.public.raw,
                board=board,
                serial=serial,
                manifest=ticket.manifest.digest,
                nonce=secrets.token_bytes(NONCE_LENGTH),
            )
            pending = _Pending(request, kem.to_seed())
            write_atomic(self.directory / PENDING, pending.to_bytes())
        return pending.request, Keys(key, KemPrivateKey.from_seed(DEFAULT, pending.kem_seed))

    def _pending(self) -> _Pending | None:
        path = self.directory / PENDING
        try:
            return _Pending.parse(read_bounded(path, _Pending.CEILING))
        except FileNotFoundError:
            return None
        except PeerFault as fault:
            raise LocalFault(
                f"{path}: {fault}; remove it and enrol again, with a fresh ticket"
            ) from None

    def trust(self, ca: bytes) -> Path | None:
        """Keep what the brokers are checked by; None where that is the system's CAs."""
        path = self.directory / CA
        if not ca:
            return None
        write_atomic(path, ca, 0o644)
        return path

    def finish(self, grant: EnrolGrant, request: EnrolRequest) -> Enrolled:
        """Write all that the device needs, the marker last."""
        here = self.directory
        write_atomic(here / CERTIFICATE, grant.certificate, 0o644)
        write_atomic(here / PASSWORD, grant.password.encode())
        self.trust(grant.ca)
        fingerprint = request.key.fingerprint
        marker = Marker(
            fleet=str(grant.fleet),
            name=str(grant.name),
            fingerprint=str(fingerprint),
            token=request.token.hex(),
            brokers=grant.brokers,
            private_ca=bool(grant.ca),
            board=request.board,
            serial=request.serial,
            enrolled_at=grant.issued_at,
        )
        write_atomic(here / MARKER, encode(marker), 0o644)
        self.tidy()
        return Enrolled(grant.name, fingerprint, grant.fleet, grant.brokers, bool(grant.ca))


def _answers(request: EnrolRequest, ticket: Ticket, key: SigningKey) -> bool:
    theirs = (request.fleet, request.token, request.verify_key)
    return theirs == (ticket.fleet, ticket.token, key.verify_key.raw)

"""Bytes to verified objects: what is signed, what is sealed, and what both are bound to.

Signed message: CBOR array [message bytes, signature]; the signature's context is the message's
own, and it is verified before the message is parsed.
Update: CBOR array [header bytes, signature, sealed payload]. The header carries the digest of the
sealed part, so that anybody who knows the device's key can check the whole without opening it.
The seal's `info` binds the claims that were answered, the device and the round.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, TypeVar

from qflare import codec
from qflare.compression.padding import pad, unpad
from qflare.crypto.keys import KemPrivateKey, KemPublicKey, Signature, SigningKey, VerifyKey
from qflare.crypto.suites import Aead
from qflare.faults import PeerFault, Reason
from qflare.messages import EnclaveClaims, UpdateHeader, UpdatePayload
from qflare.names import DeviceId, Digest

_FRAME = 64  # bytes that an envelope adds to its parts, at most


class Signable(Protocol):
    """A message that is spoken signed only."""

    CEILING: ClassVar[int]
    CONTEXT: ClassVar[str]

    def to_bytes(self) -> bytes: ...

    @classmethod
    def parse(cls, data: bytes) -> Self: ...


M = TypeVar("M", bound=Signable)


def sign(message: Signable, key: SigningKey) -> bytes:
    """Return the signed form of `message`."""
    body = message.to_bytes()
    return codec.encode([body, key.sign(message.CONTEXT, body).raw])


def open_signed(kind: type[M], data: bytes, key: VerifyKey) -> M:
    """Verify `data` as a `kind` signed by `key`, then parse it; raise PeerFault otherwise."""
    ceiling = kind.CEILING + key.suite.signature_length + _FRAME
    body, signature = _parts(codec.decode(data, ceiling), 2)
    key.verify(kind.CONTEXT, body, Signature.parse(key.suite, signature))
    return kind.parse(body)


def peek_signed(kind: type[M], data: bytes) -> M:
    """Parse a signed message *without* verifying it: only to find out whose key to verify with."""
    body, _ = _parts(codec.decode(data, kind.CEILING + 16 * 1024), 2)
    return kind.parse(body)


def seal_info(claims: Digest, device: DeviceId, round_: int, certificate: Digest) -> bytes:
    """The HPKE `info` of an update: everything that it must not be moved to."""
    return codec.encode(["qflare/1/update", claims.raw, str(device), round_, certificate.raw])


def seal_update(
    payload: UpdatePayload,
    claims: EnclaveClaims,
    device: DeviceId,
    certificate: Digest,
    signing_key: SigningKey,
    aead: Aead,
) -> bytes:
    """Pad, seal to the enclave of `claims`, and sign: the bytes that a device sends.

    `certificate` is the fingerprint of the device certificate that the enclave will verify with.
    """
    kem = KemPublicKey.parse(signing_key.suite, claims.kem_key)
    info = seal_info(claims.digest, device, claims.round, certificate)
    sealed = kem.seal(pad(payload.to_bytes()), info, aead=aead)
    header = UpdateHeader(
        fleet=claims.fleet,
        device=device,
        certificate=certificate,
        round=claims.round,
        epoch=claims.epoch,
        claims=claims.digest,
        sealed=Digest.of(sealed),
        sealed_size=len(sealed),
    ).to_bytes()
    signature = signing_key.sign(UpdateHeader.CONTEXT, header)
    return codec.encode([header, signature.raw, sealed])


@dataclass(frozen=True)
class Update:
    """A sealed update as received: parsed, and verified only once `verify` has returned."""

    header: UpdateHeader
    digest: Digest  # of the whole envelope: the update's name everywhere
    signed: bytes
    signature: bytes
    sealed: bytes

    @classmethod
    def parse(cls, data: bytes, ceiling: int) -> Self:
        """Parse the envelope; raise PeerFault for anything but its one spelling."""
        header, signature, sealed = _parts(codec.decode(data, ceiling), 3)
        return cls(UpdateHeader.parse(header), Digest.of(data), header, signature, sealed)

    def verify(self, key: VerifyKey) -> None:
        """Raise PeerFault unless the device that owns `key` signed exactly this."""
        if self.header.sealed_size != len(self.sealed):
            raise PeerFault(Reason.WRONG_DIGEST, "sealed part is not as long as signed")
        key.verify(UpdateHeader.CONTEXT, self.signed, Signature.parse(key.suite, self.signature))
        if Digest.of(self.sealed) != self.header.sealed:
            raise PeerFault(Reason.WRONG_DIGEST, "sealed part is not the one that was signed")

    def open(self, key: KemPrivateKey) -> UpdatePayload:
        """Open a verified update; raise PeerFault(CANNOT_OPEN) if it wasn't sealed to this."""
        h = self.header
        padded = key.open(self.sealed, seal_info(h.claims, h.device, h.round, h.certificate))
        return UpdatePayload.parse(unpad(padded))


def _parts(value: codec.Value, count: int) -> list[bytes]:
    if not isinstance(value, list) or len(value) != count:
        raise PeerFault(Reason.MALFORMED, f"an envelope of {count} parts was expected")
    parts = [part for part in value if type(part) is bytes]
    if len(parts) != count:
        raise PeerFault(Reason.MALFORMED, "an envelope holds byte strings")
    return parts

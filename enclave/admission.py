"""From a device's bytes to a contribution, or to a typed refusal: nothing here changes anything.

Everything that the coordinator has checked is checked again, because the coordinator isn't
trusted. Cheap checks come first, and nothing is opened before its sender is known.
"""

from dataclasses import dataclass, field

from enclave.aggregate import Limits
from qflare import codec
from qflare.compression import Codec, bucket, parse_codec
from qflare.compression.codecs import decode
from qflare.crypto.certificates import CERTIFICATE_MAX, DeviceCertificate, verify_device
from qflare.crypto.keys import KemPrivateKey
from qflare.crypto.suites import Suite, parse_suite
from qflare.envelope import Update
from qflare.faults import PeerFault, Reason
from qflare.messages import EnclaveClaims, UpdateHeader, UpdatePayload
from qflare.names import DeviceId, Digest
from qflare.policy import Genesis, OwnerManifest, RoundPolicy
from qflare.record import check
from qflare.tallies import Tallies, spelled_max
from qflare.tensors import BlockVector

_CERTIFICATES_KEPT = 4096


class CertificateDesk:
    """Verifies device certificates under one owner manifest, each fingerprint once.

    The enclave trusts no clock, so validity in time is the coordinator's and the broker's to
    check, and revocation is the owner's. Any number of threads may call `verify`.
    """

    def __init__(self, manifest: OwnerManifest) -> None:
        self._manifest = manifest
        self._suite = parse_suite(manifest.suite)
        self._revoked = manifest.revoked_serials
        self._known: dict[Digest, DeviceCertificate] = {}

    def verify(self, der: bytes, fingerprint: Digest) -> DeviceCertificate:
        """Return the certificate of this fingerprint; raise PeerFault as `verify_device` does."""
        if len(der) > CERTIFICATE_MAX:
            raise PeerFault(Reason.TOO_LARGE, f"certificate: {len(der)} bytes")
        if Digest.of(der) != fingerprint:
            raise PeerFault(Reason.BAD_CERTIFICATE, "not the certificate that the header names")
        found = self._known.get(fingerprint)
        if found is None:
            m = self._manifest
            found = verify_device(der, m.device_cas, None, m.fleet, self._revoked, self._suite)
            if len(self._known) < _CERTIFICATES_KEPT:
                self._known[fingerprint] = found
        return found


@dataclass(frozen=True, eq=False)
class RoundContext:
    """What an update of the open round must fit."""

    claims: EnclaveClaims
    invited: frozenset[DeviceId]  # empty: every device of the fleet
    limits: Limits
    codec: Codec
    ceiling: int  # bytes of a whole update
    kem_key: KemPrivateKey = field(repr=False)
    certificates: CertificateDesk = field(repr=False)
    digest: Digest  # of the claims

    @classmethod
    def of(
        cls,
        claims: EnclaveClaims,
        cohort: tuple[DeviceId, ...],
        policy: RoundPolicy,
        genesis: Genesis,
        kem_key: KemPrivateKey,
        certificates: CertificateDesk,
    ) -> "RoundContext":
        """Raise PeerFault(POLICY_NOT_ALLOWED, BAD_VALUE) for a policy that can't be kept."""
        kind = parse_codec(policy.codec)
        limits = Limits(
            genesis.size,
            policy.clip_norm,
            policy.weight_cap,
            policy.min_cohort,
            policy.max_cohort,
            genesis.classes,
        )
        return cls(
            claims=claims,
            invited=frozenset(cohort),
            limits=limits,
            codec=kind,
            ceiling=update_ceiling(kind, genesis.size, genesis.classes, kem_key.suite),
            kem_key=kem_key,
            certificates=certificates,
            digest=claims.digest,
        )


@dataclass(frozen=True, eq=False)
class Contribution:
    """One device's update, verified, opened and decoded; norm, tallies and room are the sum's to
    check."""

    device: DeviceId
    digest: Digest
    weight: int
    vector: BlockVector = field(repr=False)
    tallies: Tallies = field(repr=False)


def update_ceiling(kind: Codec, size: int, classes: int, suite: Suite) -> int:
    """The length in bytes of the longest honest update for a model of `size` coordinates."""
    payload = len(UpdatePayload(2**32, b"", ()).to_bytes()) + 4 + kind.payload_ceiling(size)
    payload += spelled_max(classes)
    sealed = bucket(payload + 1) + suite.seal_overhead
    frame = len(codec.encode([b"", b"", b""])) + 12  # three lengths of at most four bytes more
    return UpdateHeader.CEILING + suite.signature_length + sealed + frame


def admit(update_bytes: bytes, certificate_der: bytes, context: RoundContext) -> Contribution:
    """Verify, open and decode an update of the open round.

    Raises PeerFault: TOO_LARGE, MALFORMED, WRONG_FLEET, WRONG_ROUND, STALE_EPOCH, WRONG_OFFER,
    NOT_INVITED, BAD_CERTIFICATE, REVOKED, WRONG_SUITE, BAD_SIGNATURE, WRONG_DIGEST, CANNOT_OPEN,
    BAD_WEIGHT, WRONG_SHAPE, BAD_VALUE. A weight above the cap is refused, not lowered: an honest
    device knows the cap.
    """
    update = Update.parse(update_bytes, context.ceiling)
    header, claims = update.header, context.claims
    check(header.fleet == claims.fleet, f"update for fleet {header.fleet}", Reason.WRONG_FLEET)
    check(header.round == claims.round, f"update for round {header.round}", Reason.WRONG_ROUND)
    check(header.epoch == claims.epoch, f"update for epoch {header.epoch}", Reason.STALE_EPOCH)
    check(header.claims == context.digest, "answers other claims", Reason.WRONG_OFFER)
    if context.invited and header.device not in context.invited:
        raise PeerFault(Reason.NOT_INVITED, f"{header.device} is not in the cohort")
    certificate = context.certificates.verify(certificate_der, header.certificate)
    if certificate.device != header.device:
        raise PeerFault(Reason.BAD_CERTIFICATE, f"{header.device} shows another's certificate")
    update.verify(certificate.verify_key)
    payload = update.open(context.kem_key)
    if not 1 <= payload.weight <= context.limits.weight_cap:
        raise PeerFault(Reason.BAD_WEIGHT, f"weight outside 1…{context.limits.weight_cap}")
    vector = decode(payload.encoded, context.codec, context.limits.size)
    return Contribution(header.device, update.digest, payload.weight, vector, payload.tallies)

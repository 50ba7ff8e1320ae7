"""What can be checked of an update without opening it. Pure."""

from dataclasses import dataclass

from qflare.crypto.certificates import DeviceCertificate
from qflare.envelope import Update
from qflare.faults import PeerFault, Reason
from qflare.messages import EnclaveClaims
from qflare.names import DeviceId, Digest
from qflare.record import check


@dataclass(frozen=True)
class Terms:
    """What an update of the open round has to answer."""

    claims: EnclaveClaims
    ceiling: int  # bytes of a whole update


def verify_update(
    data: bytes, named: Digest, device: DeviceId, certificate: DeviceCertificate, terms: Terms
) -> Update:
    """Verify an assembled update of `device`; return it parsed.

    Raises PeerFault: WRONG_DIGEST if these are not the bytes that were offered or signed,
    MALFORMED, TOO_LARGE, UNKNOWN_DEVICE for another device's, BAD_CERTIFICATE for another
    certificate than the device showed, WRONG_FLEET, WRONG_ROUND, STALE_EPOCH, WRONG_OFFER for
    other claims, BAD_SIGNATURE.
    """
    try:
        update = Update.parse(data, terms.ceiling)
    except PeerFault:
        check(Digest.of(data) == named, "not the bytes that were offered", Reason.WRONG_DIGEST)
        raise
    check(update.digest == named, "not the bytes that were offered", Reason.WRONG_DIGEST)
    h, claims = update.header, terms.claims
    for ok, reason, what in (
        (h.fleet == claims.fleet, Reason.WRONG_FLEET, f"for fleet {h.fleet}"),
        (h.device == device, Reason.UNKNOWN_DEVICE, f"of device {h.device}, sent by {device}"),
        (h.certificate == certificate.fingerprint, Reason.BAD_CERTIFICATE, "another certificate"),
        (h.round == claims.round, Reason.WRONG_ROUND, f"for round {h.round}"),
        (h.epoch == claims.epoch, Reason.STALE_EPOCH, f"for epoch {h.epoch}"),
        (h.claims == claims.digest, Reason.WRONG_OFFER, "answers other claims"),
    ):
        if not ok:
            raise PeerFault(reason, f"update {what}")
    update.verify(certificate.verify_key)
    return update

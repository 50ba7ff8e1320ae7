"""Device certificates: X.509 v3 with ML-DSA (RFC 9881), one level below the fleet's CA.

The profile is narrow, and verifying is strict about it: what issuing.py would not have issued is
refused. A device's subject is O=<fleet>, CN=<device>; it may sign and be a TLS client, no more.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from qflare.crypto import pyca
from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import DEFAULT, Suite
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import DeviceId, Digest, FleetId

CERTIFICATE_MAX = 8 * 1024  # bytes; a device's with ML-DSA-65 has about 5,700

CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
CA_CONSTRAINTS = x509.BasicConstraints(ca=True, path_length=0)
LEAF_CONSTRAINTS = x509.BasicConstraints(ca=False, path_length=None)
_LEAF_EXTENSIONS = {
    ExtensionOID.BASIC_CONSTRAINTS: True,
    ExtensionOID.KEY_USAGE: True,
    ExtensionOID.EXTENDED_KEY_USAGE: False,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
}  # each exactly once, with this criticality, and no other


@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """A verified device certificate; `checked_at` is None if validity was left unchecked."""

    device: DeviceId
    verify_key: VerifyKey
    serial: int
    fingerprint: Digest
    not_before: datetime
    not_after: datetime
    checked_at: datetime | None


def verify_device(
    der: bytes,
    trusted_ca_ders: Iterable[bytes],
    now: datetime | None,
    fleet: FleetId,
    revoked_serials: Container[int],
    suite: Suite = DEFAULT,
) -> DeviceCertificate:
    """Verify a device's certificate against the fleet's CAs, and return what it says.

    `now` is aware; None leaves validity unchecked, for the enclave, which trusts no clock (the
    result's `checked_at` then is None). Raises PeerFault: TOO_LARGE, MALFORMED, WRONG_SUITE for a
    key of another suite, WRONG_FLEET, BAD_VALUE for a name that is none, EXPIRED_CERTIFICATE (or
    not yet valid), REVOKED, and BAD_CERTIFICATE for all else that is wrong.
    """
    cert = parse(der)
    _verify_issuer(cert, trusted_ca_ders, now, fleet)
    _verify_profile(cert)
    key = cert.public_key()
    if not isinstance(key, pyca.ML_DSA[suite.signature][1]):
        raise PeerFault(Reason.WRONG_SUITE, f"the certified key is not of {suite}")
    organisation = attribute(cert.subject, NameOID.ORGANIZATION_NAME)
    if organisation != fleet:
        raise PeerFault(Reason.WRONG_FLEET, f"certificate of fleet {organisation[:40]!r}")
    device = DeviceId.parse(attribute(cert.subject, NameOID.COMMON_NAME))
    if cert.subject != subject_of(fleet, device):
        raise PeerFault(Reason.BAD_CERTIFICATE, "subject is more than O and CN")
    _verify_validity(cert, now)
    if cert.serial_number in revoked_serials:
        raise PeerFault(Reason.REVOKED, f"certificate {cert.serial_number:x} of {device}")
    parsed = VerifyKey.parse(suite, key.public_bytes_raw())
    dates = cert.not_valid_before_utc, cert.not_valid_after_utc
    return DeviceCertificate(device, parsed, cert.serial_number, Digest.of(der), *dates, now)


def parse(der: bytes) -> x509.Certificate:
    """Parse DER in its one spelling; every lazy part is read here, where refusal is one word."""
    if len(der) > CERTIFICATE_MAX:
        raise PeerFault(Reason.TOO_LARGE, f"certificate: {len(der)} bytes")
    try:
        cert = x509.load_der_x509_certificate(der)
        _ = (cert.version, cert.subject, cert.issuer, cert.extensions, cert.public_key())
        _ = (cert.not_valid_before_utc, cert.not_valid_after_utc, cert.serial_number)
        again = cert.public_bytes(Encoding.DER)
    except Exception:  # the library has no common base for what garbage makes it raise
        raise PeerFault(Reason.MALFORMED, "no X.509 certificate") from None
    if again != der:
        raise PeerFault(Reason.MALFORMED, "certificate not in its one spelling")
    return cert


def _verify_issuer(
    cert: x509.Certificate, ca_ders: Iterable[bytes], now: datetime | None, fleet: FleetId
) -> None:
    for ca in map(parse, ca_ders):
        if ca.subject != cert.issuer:
            continue
        try:
            cert.verify_directly_issued_by(ca)
        except Exception:  # noqa: S112 - whatever the reason, this CA did not issue it
            continue
        _verify_ca(ca, now, fleet)
        return
    raise PeerFault(Reason.BAD_CERTIFICATE, "not issued by a CA of this fleet")


def _verify_ca(ca: x509.Certificate, now: datetime | None, fleet: FleetId) -> None:
    found = {extension.oid: extension.value for extension in ca.extensions}
    if (
        ca.version is not x509.Version.v3
        or found.get(ExtensionOID.BASIC_CONSTRAINTS) != CA_CONSTRAINTS
        or found.get(ExtensionOID.KEY_USAGE) != key_usage(ca=True)
    ):
        raise PeerFault(Reason.BAD_CERTIFICATE, "the issuer is no CA")
    if attribute(ca.subject, NameOID.ORGANIZATION_NAME) != fleet:
        raise PeerFault(Reason.WRONG_FLEET, "the issuer is another fleet's CA")
    _verify_validity(ca, now)


def _verify_profile(cert: x509.Certificate) -> None:
    if cert.version is not x509.Version.v3:
        raise PeerFault(Reason.BAD_CERTIFICATE, "not version 3")
    if {ext.oid: ext.critical for ext in cert.extensions} != _LEAF_EXTENSIONS:
        raise PeerFault(Reason.BAD_CERTIFICATE, "other extensions than a device's")
    found = {extension.oid: extension.value for extension in cert.extensions}
    if (
        found[ExtensionOID.BASIC_CONSTRAINTS] != LEAF_CONSTRAINTS
        or found[ExtensionOID.KEY_USAGE] != key_usage(ca=False)
        or found[ExtensionOID.EXTENDED_KEY_USAGE] != CLIENT_AUTH
    ):
        raise PeerFault(Reason.BAD_CERTIFICATE, "not for signing and client authentication alone")


def _verify_validity(cert: x509.Certificate, now: datetime | None) -> None:
    if now is None:
        return
    if now.tzinfo is None:
        raise LocalFault("a time without a zone; pass an aware datetime")
    if not cert.not_valid_before_utc <= now <= cert.not_valid_after_utc:
        raise PeerFault(
            Reason.EXPIRED_CERTIFICATE,
            f"valid {cert.not_valid_before_utc:%F %T} to {cert.not_valid_after_utc:%F %T}",
        )


def attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    """The one attribute of this kind; raise PeerFault(BAD_CERTIFICATE) for none or several."""
    values = [attribute.value for attribute in name.get_attributes_for_oid(oid)]
    if len(values) != 1 or not isinstance(values[0], str):
        raise PeerFault(Reason.BAD_CERTIFICATE, f"want one {oid._name} in the subject")
    return values[0]


def subject_of(fleet: str, common_name: str) -> x509.Name:
    """The name O=<fleet>, CN=<common name>."""
    parts = (NameOID.ORGANIZATION_NAME, fleet), (NameOID.COMMON_NAME, common_name)
    return x509.Name([x509.NameAttribute(oid, str(text)) for oid, text in parts])


def key_usage(*, ca: bool) -> x509.KeyUsage:
    """What a CA's key, or a device's, is for."""
    # In the order of RFC 5280, section 4.2.1.3: digitalSignature is first, keyCertSign and cRLSign
    # are sixth and seventh.
    return x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)

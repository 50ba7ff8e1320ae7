"""Device certificates: X.509 v3 with ML-DSA (RFC 9881), one level below the fleet's CA.

The profile is narrow, and verifying is strict about it: what this module would not have issued is
refused. A device's subject is O=<fleet>, CN=<device>; it may sign and be a TLS client, no more.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from qflare.crypto import pyca
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT, Suite
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import DeviceId, Digest, FleetId

CERTIFICATE_MAX = 8 * 1024  # bytes; a device's with ML-DSA-65 has about 5,700

# A certificate is valid a little before it is made, for verifiers whose clocks are behind.
_BACKDATE = timedelta(minutes=5)
_CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
_CA_CONSTRAINTS = x509.BasicConstraints(ca=True, path_length=0)
_LEAF_CONSTRAINTS = x509.BasicConstraints(ca=False, path_length=None)
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


def issue_ca(fleet: FleetId, suite: Suite, now: datetime, days: int) -> tuple[SigningKey, bytes]:
    """Make a fleet's device CA: its private key and its self-signed certificate (DER).

    The certificate's name carries the key's fingerprint, so that two CAs of one fleet differ.
    """
    key = SigningKey.generate(suite)
    name = _name(fleet, f"device CA {key.verify_key.fingerprint.short}")
    public = pyca.verify_key(suite, key.verify_key.raw)
    builder = (
        _builder(name, name, public, now, days)
        .add_extension(_CA_CONSTRAINTS, critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return key, _signed(builder, key)


def issue_device(
    ca_key: SigningKey,
    ca_cert: bytes,
    device_id: DeviceId,
    verify_key: VerifyKey,
    now: datetime,
    days: int,
) -> bytes:
    """Issue the certificate (DER) of `device_id` for `verify_key`.

    Raises LocalFault if `ca_cert` is not `ca_key`'s, PeerFault(WRONG_SUITE) if the device's key is
    of another suite.
    """
    if verify_key.suite is not ca_key.suite:
        raise PeerFault(Reason.WRONG_SUITE, f"the CA is of {ca_key.suite}")
    ca = _parse(ca_cert)
    issuer = pyca.verify_key(ca_key.suite, ca_key.verify_key.raw)
    if ca.public_key() != issuer:
        raise LocalFault("the CA's key and certificate don't belong together; restore the pair")
    fleet = FleetId.parse(_attribute(ca.subject, NameOID.ORGANIZATION_NAME))
    public = pyca.verify_key(verify_key.suite, verify_key.raw)
    builder = (
        _builder(_name(fleet, device_id), ca.subject, public, now, days)
        .add_extension(_LEAF_CONSTRAINTS, critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(_CLIENT_AUTH, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
    )
    return _signed(builder, ca_key)


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
    cert = _parse(der)
    _verify_issuer(cert, trusted_ca_ders, now, fleet)
    _verify_profile(cert)
    key = cert.public_key()
    if not isinstance(key, pyca.ML_DSA[suite.signature][1]):
        raise PeerFault(Reason.WRONG_SUITE, f"the certified key is not of {suite}")
    organisation = _attribute(cert.subject, NameOID.ORGANIZATION_NAME)
    if organisation != fleet:
        raise PeerFault(Reason.WRONG_FLEET, f"certificate of fleet {organisation[:40]!r}")
    device = DeviceId.parse(_attribute(cert.subject, NameOID.COMMON_NAME))
    if cert.subject != _name(fleet, device):
        raise PeerFault(Reason.BAD_CERTIFICATE, "subject is more than O and CN")
    _verify_validity(cert, now)
    if cert.serial_number in revoked_serials:
        raise PeerFault(Reason.REVOKED, f"certificate {cert.serial_number:x} of {device}")
    parsed = VerifyKey.parse(suite, key.public_bytes_raw())
    dates = cert.not_valid_before_utc, cert.not_valid_after_utc
    return DeviceCertificate(device, parsed, cert.serial_number, Digest.of(der), *dates, now)


def _parse(der: bytes) -> x509.Certificate:
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
    for ca in map(_parse, ca_ders):
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
        or found.get(ExtensionOID.BASIC_CONSTRAINTS) != _CA_CONSTRAINTS
        or found.get(ExtensionOID.KEY_USAGE) != _key_usage(ca=True)
    ):
        raise PeerFault(Reason.BAD_CERTIFICATE, "the issuer is no CA")
    if _attribute(ca.subject, NameOID.ORGANIZATION_NAME) != fleet:
        raise PeerFault(Reason.WRONG_FLEET, "the issuer is another fleet's CA")
    _verify_validity(ca, now)


def _verify_profile(cert: x509.Certificate) -> None:
    if cert.version is not x509.Version.v3:
        raise PeerFault(Reason.BAD_CERTIFICATE, "not version 3")
    if {ext.oid: ext.critical for ext in cert.extensions} != _LEAF_EXTENSIONS:
        raise PeerFault(Reason.BAD_CERTIFICATE, "other extensions than a device's")
    found = {extension.oid: extension.value for extension in cert.extensions}
    if (
        found[ExtensionOID.BASIC_CONSTRAINTS] != _LEAF_CONSTRAINTS
        or found[ExtensionOID.KEY_USAGE] != _key_usage(ca=False)
        or found[ExtensionOID.EXTENDED_KEY_USAGE] != _CLIENT_AUTH
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


def _attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = [attribute.value for attribute in name.get_attributes_for_oid(oid)]
    if len(values) != 1 or not isinstance(values[0], str):
        raise PeerFault(Reason.BAD_CERTIFICATE, f"want one {oid._name} in the subject")
    return values[0]


def _name(fleet: str, common_name: str) -> x509.Name:
    parts = (NameOID.ORGANIZATION_NAME, fleet), (NameOID.COMMON_NAME, common_name)
    return x509.Name([x509.NameAttribute(oid, str(text)) for oid, text in parts])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    # In the order of RFC 5280, section 4.2.1.3: digitalSignature is first, keyCertSign and cRLSign
    # are sixth and seventh.
    return x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: pyca.PublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    if now.tzinfo is None:
        raise LocalFault("a time without a zone; pass an aware datetime")
    start = now.astimezone(UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATE)
        .not_valid_after(start + timedelta(days=days))
    )


def _signed(builder: x509.CertificateBuilder, key: SigningKey) -> bytes:
    return builder.sign(pyca.signing_key(key.suite, key.to_seed()), None).public_bytes(Encoding.DER)

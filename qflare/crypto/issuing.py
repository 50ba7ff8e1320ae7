"""Issue the certificates that certificates.py verifies: for owners and coordinators, no enclave."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from qflare.crypto import pyca
from qflare.crypto.certificates import (
    CA_CONSTRAINTS,
    CLIENT_AUTH,
    LEAF_CONSTRAINTS,
    attribute,
    key_usage,
    parse,
    subject_of,
)
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import Suite
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import DeviceId, FleetId

# A certificate is valid a little before it is made, for verifiers whose clocks are behind.
_BACKDATE = timedelta(minutes=5)


def issue_ca(fleet: FleetId, suite: Suite, now: datetime, days: int) -> tuple[SigningKey, bytes]:
    """Make a fleet's device CA: its private key and its self-signed certificate (DER).

    The certificate's name carries the key's fingerprint, so that two CAs of one fleet differ.
    """
    key = SigningKey.generate(suite)
    name = subject_of(fleet, f"device CA {key.verify_key.fingerprint.short}")
    public = pyca.verify_key(suite, key.verify_key.raw)
    builder = (
        _builder(name, name, public, now, days)
        .add_extension(CA_CONSTRAINTS, critical=True)
        .add_extension(key_usage(ca=True), critical=True)
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
    ca = parse(ca_cert)
    issuer = pyca.verify_key(ca_key.suite, ca_key.verify_key.raw)
    if ca.public_key() != issuer:
        raise LocalFault("the CA's key and certificate don't belong together; restore the pair")
    fleet = FleetId.parse(attribute(ca.subject, NameOID.ORGANIZATION_NAME))
    public = pyca.verify_key(verify_key.suite, verify_key.raw)
    builder = (
        _builder(subject_of(fleet, device_id), ca.subject, public, now, days)
        .add_extension(LEAF_CONSTRAINTS, critical=True)
        .add_extension(key_usage(ca=False), critical=True)
        .add_extension(CLIENT_AUTH, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
    )
    return _signed(builder, ca_key)


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

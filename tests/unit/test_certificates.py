"""Device certificates: what is issued verifies, and nothing else does."""

import inspect
from collections import Counter
from collections.abc import Container
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA65PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store

from qflare.crypto.certificates import CERTIFICATE_MAX, DeviceCertificate, verify_device
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import XWING_MLDSA65 as SUITE
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import DeviceId, Digest, FleetId

NOW = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)
FLEET = FleetId.parse("orchard")
DEVICE = DeviceId.parse("pump-7")
CA_KEY, CA = issue_ca(FLEET, SUITE, NOW, days=3650)
DEVICE_KEY = SigningKey.generate(SUITE)
CERT = issue_device(CA_KEY, CA, DEVICE, DEVICE_KEY.verify_key, NOW, days=30)


def verify(
    der: bytes = CERT,
    cas: tuple[bytes, ...] = (CA,),
    now: datetime | None = NOW,
    fleet: FleetId = FLEET,
    revoked: Container[int] = (),
) -> DeviceCertificate:
    return verify_device(der, cas, now, fleet, revoked)


def refused(reason: Reason, *args: object, **kwargs: object) -> None:
    with pytest.raises(PeerFault) as caught:
        verify(*args, **kwargs)  # type: ignore[arg-type]
    assert caught.value.reason is reason, caught.value


def test_an_issued_certificate_says_who_and_with_which_key() -> None:
    found = verify()
    assert (found.device, found.verify_key) == (DEVICE, DEVICE_KEY.verify_key)
    assert found.fingerprint == Digest.of(CERT)
    assert found.not_before <= NOW < found.not_after == NOW + timedelta(days=30)
    assert found.checked_at == NOW
    found.verify_key.verify("offer", b"m", DEVICE_KEY.sign("offer", b"m"))


def test_certificates_stay_well_below_the_ceiling() -> None:
    longest = DeviceId.parse("d" * 32)
    key, ca = issue_ca(FleetId.parse("f" * 32), SUITE, NOW, days=3650)
    cert = issue_device(key, ca, longest, DEVICE_KEY.verify_key, NOW, days=30)
    assert max(len(ca), len(cert)) < 6000 < CERTIFICATE_MAX
    assert verify(cert, (ca,), fleet=FleetId.parse("f" * 32)).device == longest


def test_an_independent_verifier_agrees() -> None:
    store = Store([x509.load_der_x509_certificate(CA)])
    # Its defaults are the web's, which want a subjectAltName; a device has no use for one.
    device_policy = ExtensionPolicy.webpki_defaults_ee().may_be_present(
        x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
    )
    verifier = (
        PolicyBuilder()
        .store(store)
        .time(NOW)
        .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=device_policy)
        .build_client_verifier()
    )
    assert len(verifier.verify(x509.load_der_x509_certificate(CERT), []).chain) == 2


def test_validity_is_checked_at_both_ends_and_on_the_ca_too() -> None:
    verify(now=NOW - timedelta(minutes=5))
    refused(Reason.EXPIRED_CERTIFICATE, now=NOW - timedelta(minutes=6))
    verify(now=NOW + timedelta(days=30))
    refused(Reason.EXPIRED_CERTIFICATE, now=NOW + timedelta(days=30, seconds=1))
    short_key, short_ca = issue_ca(FLEET, SUITE, NOW, days=1)
    cert = issue_device(short_key, short_ca, DEVICE, DEVICE_KEY.verify_key, NOW, days=30)
    verify(cert, (short_ca,))
    refused(Reason.EXPIRED_CERTIFICATE, cert, (short_ca,), now=NOW + timedelta(days=2))


def test_without_a_clock_validity_is_left_unchecked_and_said_so() -> None:
    assert verify(now=None).checked_at is None


def test_a_time_without_a_zone_is_our_own_fault() -> None:
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(LocalFault, match="zone"):
        verify(now=naive)
    with pytest.raises(LocalFault, match="zone"):
        issue_ca(FLEET, SUITE, naive, days=1)


def test_revocation_is_by_serial() -> None:
    serial = verify().serial
    refused(Reason.REVOKED, revoked={serial})
    refused(Reason.REVOKED, now=None, revoked=frozenset({serial, 1}))
    verify(revoked={serial + 1})


def test_only_the_fleet_s_own_cas_are_trusted() -> None:
    refused(Reason.BAD_CERTIFICATE, cas=())
    _, other_ca = issue_ca(FLEET, SUITE, NOW, days=1)
    refused(Reason.BAD_CERTIFICATE, cas=(other_ca,))
    verify(cas=(other_ca, CA))  # while the CA is being rolled, two are trusted
    refused(Reason.WRONG_FLEET, fleet=FleetId.parse("vineyard"))
    refused(Reason.BAD_CERTIFICATE, CA)  # a CA is no device, though it signed itself
    refused(Reason.MALFORMED, cas=(b"junk",))


def test_a_device_can_t_issue() -> None:
    forged = build(signer=pyca_key(DEVICE_KEY), issuer=x509.load_der_x509_certificate(CERT).subject)
    refused(Reason.BAD_CERTIFICATE, forged, (CERT,))
    refused(Reason.BAD_CERTIFICATE, forged, (CA, CERT))


def test_issuing_needs_a_pair_that_belongs_together() -> None:
    other, _ = issue_ca(FLEET, SUITE, NOW, days=1)
    with pytest.raises(LocalFault, match="belong together"):
        issue_device(other, CA, DEVICE, DEVICE_KEY.verify_key, NOW, days=1)


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_any_changed_byte_is_noticed() -> None:
    reasons: Counter[Reason] = Counter()
    for at in [*range(0, len(CERT), 7), *range(120), *range(len(CERT) - 20, len(CERT))]:
        changed = bytearray(CERT)
        changed[at] ^= 1 << at % 8
        with pytest.raises(PeerFault) as caught:
            verify(bytes(changed))
        reasons[caught.value.reason] += 1
    assert set(reasons) == {Reason.BAD_CERTIFICATE, Reason.MALFORMED}


def test_other_forms_are_refused() -> None:
    refused(Reason.MALFORMED, b"")
    refused(Reason.MALFORMED, CERT[:-1])
    refused(Reason.MALFORMED, CERT + b"\0")
    pem = x509.load_der_x509_certificate(CERT).public_bytes(Encoding.PEM)
    refused(Reason.MALFORMED, pem)
    refused(Reason.TOO_LARGE, CERT + bytes(CERTIFICATE_MAX))


# Below, the CA itself signs what it should not have: a stolen or careless CA tool.


def pyca_key(key: SigningKey) -> MLDSA65PrivateKey:
    return MLDSA65PrivateKey.from_seed_bytes(key.to_seed())


def name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def key_usage(**more: bool) -> x509.KeyUsage:
    fields = inspect.signature(x509.KeyUsage).parameters
    return x509.KeyUsage(**(dict.fromkeys(fields, False) | {"digital_signature": True} | more))


Extension = tuple[x509.ExtensionType, bool]
CA_SUBJECT = x509.load_der_x509_certificate(CA).subject
SUBJECT = name((NameOID.ORGANIZATION_NAME, FLEET), (NameOID.COMMON_NAME, DEVICE))
PUBLIC = pyca_key(DEVICE_KEY).public_key()
PROFILE: dict[str, Extension] = {
    "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
    "usage": (key_usage(), True),
    "extended": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    "subject id": (x509.SubjectKeyIdentifier.from_public_key(PUBLIC), False),
    "issuer id": (
        x509.AuthorityKeyIdentifier.from_issuer_public_key(pyca_key(CA_KEY).public_key()),
        False,
    ),
}


def build(
    subject: x509.Name = SUBJECT,
    issuer: x509.Name = CA_SUBJECT,
    public: object = PUBLIC,
    signer: object = None,
    drop: str = "",
    digest: hashes.HashAlgorithm | None = None,
    **extensions: Extension,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)  # type: ignore[arg-type]
        .serial_number(77)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    for what, (value, critical) in (PROFILE | extensions).items():
        if what != drop:
            builder = builder.add_extension(value, critical=critical)
    key = signer or pyca_key(CA_KEY)
    return builder.sign(key, digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def test_the_profile_by_hand_is_the_one_that_is_issued() -> None:
    assert verify(build()).serial == 77


@pytest.mark.parametrize("drop", PROFILE)
def test_no_extension_may_be_missing(drop: str) -> None:
    refused(Reason.BAD_CERTIFICATE, build(drop=drop))


SERVER, ANY = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


@pytest.mark.parametrize(
    "change",
    [
        {"constraints": (x509.BasicConstraints(ca=True, path_length=0), True)},
        {"constraints": (x509.BasicConstraints(ca=False, path_length=None), False)},
        {"usage": (key_usage(key_cert_sign=True), True)},
        {"usage": (key_usage(key_agreement=True), True)},
        {"usage": (key_usage(), False)},
        {"extended": (x509.ExtendedKeyUsage([SERVER]), False)},
        {"extended": (x509.ExtendedKeyUsage([ANY]), False)},
        {"extended": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, SERVER]), False)},
        {"more": (x509.SubjectAlternativeName([x509.DNSName("pump-8")]), False)},
        {"more": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), False)},
    ],
)
def test_no_extension_may_differ_or_be_added(change: dict[str, Extension]) -> None:
    refused(Reason.BAD_CERTIFICATE, build(**change))  # type: ignore[arg-type]


O, CN, OU = NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME  # noqa: E741


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (name((O, "vineyard"), (CN, "pump-7")), Reason.WRONG_FLEET),
        (name((O, "orchard"), (CN, "Pump 7")), Reason.BAD_VALUE),
        (name((O, "orchard"), (CN, "coordinator")), Reason.BAD_VALUE),
        (name((O, "orchard"), (CN, "pump-7/../x")), Reason.BAD_VALUE),
        (name((O, "orchard"), (CN, "pump-7"), (OU, "x")), Reason.BAD_CERTIFICATE),
        (name((CN, "pump-7"), (O, "orchard")), Reason.BAD_CERTIFICATE),
        (name((O, "orchard"), (CN, "pump-7"), (CN, "pump-8")), Reason.BAD_CERTIFICATE),
        (name((O, "orchard")), Reason.BAD_CERTIFICATE),
        (name((CN, "pump-7")), Reason.BAD_CERTIFICATE),
        (name(), Reason.BAD_CERTIFICATE),
    ],
)
def test_a_subject_is_fleet_and_device_and_no_more(subject: x509.Name, reason: Reason) -> None:
    refused(reason, build(subject))


def test_a_key_of_another_algorithm_is_refused() -> None:
    for public in (MLDSA44PrivateKey.generate(), Ed25519PrivateKey.generate()):
        refused(Reason.WRONG_SUITE, build(public=public.public_key()))


def test_a_ca_of_another_algorithm_is_refused_by_name_or_signature() -> None:
    refused(Reason.BAD_CERTIFICATE, build(signer=Ed25519PrivateKey.generate()))
    refused(Reason.BAD_CERTIFICATE, build(signer=MLDSA44PrivateKey.generate()))


def test_a_trusted_certificate_that_is_no_ca_of_the_fleet_issues_nothing() -> None:
    key = pyca_key(CA_KEY)
    wide = build(
        CA_SUBJECT,
        public=key.public_key(),
        constraints=(x509.BasicConstraints(ca=True, path_length=None), True),
        usage=(key_usage(digital_signature=False, key_cert_sign=True, crl_sign=True), True),
    )
    refused(Reason.BAD_CERTIFICATE, build(), (wide,))

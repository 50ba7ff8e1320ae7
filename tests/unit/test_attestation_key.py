"""What is taken for a TPM's endorsement key, and what is not."""

from collections.abc import Callable
from datetime import UTC, datetime
from struct import pack
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from qflare.faults import PeerFault
from qflare.host import attestation_key
from qflare.host.attestation_key import EK_CERTIFICATE, accept, challenge, parse_public
from tests.platforms.tpm import ATTRIBUTES, SoftwareTpm, sized

NOW = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())
DAY = 86_400
AK = SoftwareTpm()
PUBLIC = sized(AK.area())
ROOT, MAKER, EK = (rsa.generate_private_key(65537, 2048) for _ in range(3))
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(key: Any, name: str, by: Any, issuer: str, **changes: Any) -> x509.Certificate:
    one = {"ca": True, "usage": None, "starts": NOW - DAY, "ends": NOW + DAY} | changes

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.fromtimestamp(one["starts"], UTC))
        .not_valid_after(datetime.fromtimestamp(one["ends"], UTC))
        .add_extension(x509.BasicConstraints(one["ca"], None), True)
    )
    if one["usage"] is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([one["usage"]]), False)
    return builder.sign(by, SHA256())


def ek(key: Any = EK, by: Any = MAKER, **changes: Any) -> bytes:
    usual = {"ca": False, "usage": EK_CERTIFICATE}
    return certificate(key, "TPM", by, "maker", **usual | changes).public_bytes(Encoding.DER)


def makers(**changes: Any) -> bytes:
    root = certificate(ROOT, "root", ROOT, "root")
    maker = certificate(MAKER, "maker", ROOT, "root", **changes)
    return b"".join(one.public_bytes(Encoding.PEM) for one in (maker, root))


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def test_a_challenge_for_a_genuine_endorsement_key() -> None:
    made, secret = challenge(ek(), makers(), PUBLIC, NOW)
    assert made.startswith(pack(">II", 0xBADCC0DE, 1))
    assert secret not in made
    assert accept(PUBLIC, secret, secret) == AK.name
    again, other = challenge(ek(), makers(), PUBLIC, NOW)
    assert again != made
    assert other != secret


REFUSED: list[tuple[str, Callable[[], bytes], Callable[[], bytes], str]] = [
    ("ended", lambda: ek(ends=NOW - 1), makers, "not of this time"),
    ("not begun", lambda: ek(starts=NOW + 1), makers, "not of this time"),
    ("another's key", lambda: ek(by=ROOT), makers, "none of the given authorities"),
    ("no maker", ek, lambda: pem(certificate(ROOT, "root", ROOT, "root")), "none of the given"),
    ("no root", ek, lambda: pem(certificate(MAKER, "maker", ROOT, "root")), "none of the given"),
    ("a maker that is no authority", ek, lambda: makers(ca=False), "no authority"),
    ("a maker that has ended", ek, lambda: makers(ends=NOW - 1), "not of this time"),
    ("a web server's", lambda: ek(usage=x509.ExtendedKeyUsageOID.SERVER_AUTH), makers,
     "not one of an endorsement key"),
    ("for nothing", lambda: ek(usage=None), makers, "no certificate of an endorsement key"),
    ("on a curve", lambda: ek(OTHER_KEY), makers, "not RSA of 2,048"),
    ("signed by itself", lambda: certificate(EK, "TPM", EK, "TPM", usage=EK_CERTIFICATE)
     .public_bytes(Encoding.DER), makers, "none of the given"),
    ("no certificate", lambda: b"\x30\x03\x02\x01\x01", makers, "no certificate"),
    ("no authorities", ek, lambda: b"", "no certificate"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "by", "why"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_no_challenge_for_anything_else(
    one: Callable[[], bytes], by: Callable[[], bytes], why: str
) -> None:
    with pytest.raises(PeerFault, match=why):
        challenge(one(), by(), PUBLIC, NOW)


def test_no_challenge_for_a_key_that_signs_anything() -> None:
    free = SoftwareTpm(attributes=ATTRIBUTES & ~(1 << 16))
    with pytest.raises(PeerFault, match="restricted"):
        challenge(ek(), makers(), sized(free.area()), NOW)


@given(st.binary(max_size=300))
def test_garbage_gives_a_fault_and_nothing_else(data: bytes) -> None:
    for parts in ((data, makers(), PUBLIC), (ek(), data, PUBLIC), (ek(), makers(), data)):
        with pytest.raises(PeerFault):
            challenge(*parts, NOW)
    with pytest.raises(PeerFault):
        parse_public(PUBLIC + b"\0" + data)
    with pytest.raises(PeerFault):
        accept(PUBLIC, data, data[:-1])


def test_a_large_file_is_refused_unread(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(16 * 1024 + 1))
    words = ["accept", "--key", str(large), "--secret", str(large), "--answer", str(large)]
    assert attestation_key.main(words) == 1
    assert "larger than" in capsys.readouterr().err

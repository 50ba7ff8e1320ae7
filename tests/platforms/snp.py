"""A software platform that reports as AMD's does: own ARK, ASK and chip (or cloud) key.

Formats: AMD's "SEV Secure Nested Paging Firmware ABI Specification" (reports 2, 3 and 5) and
"VCEK Certificate and KDS Interface Specification". RSA keys have 2,048 bits unless AMD's 4,096
are asked for, which take seconds; chips' certificates have the serial number 0, as AMD's do.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers.snp import SEV_SNP, pack_table

NOW = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())
DAY = 86_400
LAUNCH = b"\x55" * 48
ID_KEY, AUTHOR_KEY = b"\x66" * 48, b"\x77" * 48
CHIP = bytes(range(1, 65))
TCB = {"bl": 4, "tee": 1, "snp": 22, "ucode": 209, "fmc": 2}
_ORDER = {
    "Milan": ("bl", "tee", None, None, None, None, "snp", "ucode"),
    "Genoa": ("bl", "tee", None, None, None, None, "snp", "ucode"),
    "Turin": ("fmc", "bl", "tee", "snp", None, None, None, "ucode"),
}
_MODEL = {"Milan": b"\x19\x01\x01", "Genoa": b"\x19\x11\x01", "Turin": b"\x1a\x02\x01"}
_SPL = {"bl": "3.1", "tee": "3.2", "snp": "3.3", "ucode": "3.8", "fmc": "3.9"}
_OID = "1.3.6.1.4.1.3704.1."
_PSS = padding.PSS(padding.MGF1(SHA384()), 48)
_SERIAL = 0x2A  # of what gets the number 0


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@cache
def _rsa(name: str, bits: int) -> rsa.RSAPrivateKey:
    """One key for each name in a process: making them is what takes time."""
    del name
    return rsa.generate_private_key(65537, bits)


def tcb_bytes(product: str, tcb: dict[str, int]) -> bytes:
    """The eight bytes of a TCB version, in the product's order."""
    return bytes(tcb[part] if part else 0 for part in _ORDER[product])


def _integer(value: int) -> bytes:
    return bytes((2, 1, value)) if value < 0x80 else bytes((2, 2, 0, value))


class SoftwareSnp:
    """One processor and the authority of its product."""

    def __init__(
        self,
        product: str = "Milan",
        *,
        shared: bool = False,
        authority: str = "AMD of software",
        chip: bytes = CHIP,
        certified: dict[str, int] | None = None,
        starts: int = NOW - 365 * DAY,
        ends: int = NOW + 2000 * DAY,
        bits: int = 2048,
    ) -> None:
        """`shared`: its reports are signed by a cloud's key (VLEK), not the chip's (VCEK)."""
        self.product, self.shared, self.chip = product, shared, chip
        self._authority, self._starts, self._ends = authority, starts, ends
        self._ark_key, self._ask_key = (
            _rsa(f"{name} {authority}", bits) for name in ("ark", "ask")
        )
        self._key = ec.generate_private_key(ec.SECP384R1())
        asks = f"SEV-VLEK-{product}" if shared else f"SEV-{product}"
        self.ark = self._issue(f"ARK-{product}", f"ARK-{product}", self._ark_key, self._ark_key)
        self.ask = self._issue(asks, f"ARK-{product}", self._ask_key, self._ark_key)
        # A chip with Turin's long form says its first eight bytes only.
        said = [(part, certified or TCB) for part in _SPL if part in _ORDER[product]]
        extensions = [(_SPL[part], _integer(tcb[part])) for part, tcb in said]
        if shared:
            extensions.append(("5", b"\x16\x05cloud"))
        else:
            extensions.append(("4", chip[:8] if product == "Turin" else chip))
        name = "SEV-VLEK" if shared else "SEV-VCEK"
        self.key = _with_serial_0(
            self._issue(name, asks, self._key, self._ask_key, extensions), self._ask_key
        )

    @property
    def insecure_root(self) -> Digest:
        """By which an owner would allow this platform."""
        return Digest.of(self.ark.public_bytes(Encoding.DER))

    def _name(self, common: str) -> x509.Name:
        organization = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, self._authority)
        return x509.Name([organization, x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])

    def _issue(
        self,
        subject: str,
        issuer: str,
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
        by: rsa.RSAPrivateKey,
        extensions: Iterable[tuple[str, bytes]] = (),
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name(subject))
            .issuer_name(self._name(issuer))
            .public_key(key.public_key())
            .serial_number(_SERIAL if extensions else x509.random_serial_number())
            .not_valid_before(_time(self._starts))
            .not_valid_after(_time(self._ends))
        )
        for suffix, value in extensions:
            oid = x509.ObjectIdentifier(_OID + suffix)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), False)
        return builder.sign(by, SHA384(), rsa_padding=_PSS)

    def crl(
        self, *revoked: int, starts: int = NOW - DAY, ends: int = NOW + 180 * DAY,
        key: rsa.RSAPrivateKey | None = None,
    ) -> bytes:  # fmt: skip
        """The ARK's revocation list (DER)."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ark.subject)
            .last_update(_time(starts))
            .next_update(_time(ends))
        )
        for serial in revoked:
            one = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(one.revocation_date(_time(starts)).build())
        signed = builder.sign(key or self._ark_key, SHA384(), rsa_padding=_PSS)
        return signed.public_bytes(Encoding.DER)

    def entries(self, **changes: bytes) -> dict[str, bytes]:
        """What the table of certificates holds, by name."""
        der = Encoding.DER
        leaf = "vlek" if self.shared else "vcek"
        found = {leaf: self.key, "ask": self.ask, "ark": self.ark}
        return {n: c.public_bytes(der) for n, c in found.items()} | {"crl": self.crl()} | changes

    def report(
        self,
        report_data: bytes,
        *,
        version: int = 3,
        policy: int = 0x3_0000,  # SMT is allowed; the bit that is always set
        svn: int = 4,
        level: int = 0,
        author: bool = False,
        id_key: bytes = ID_KEY,
        image_id: int = 7,
        tcb: dict[str, int] | None = None,
        committed: dict[str, int] | None = None,
        chip: bytes | None = None,
        signing_key: int | None = None,
        model: bytes | None = None,
        launch: bytes = LAUNCH,
        algorithm: int = 1,
        reserved: bytes = bytes(368),
    ) -> bytes:
        """The 1,184 bytes of a report, signed."""
        reported = tcb_bytes(self.product, tcb or TCB)
        kind = int(self.shared) if signing_key is None else signing_key
        chip = (bytes(64) if self.shared else self.chip) if chip is None else chip
        if self.product == "Turin":
            chip = chip[:8] + bytes(56)
        body = bytearray(0x2A0)
        for at, part in (
            (0x00, version.to_bytes(4, "little")),
            (0x04, svn.to_bytes(4, "little")),
            (0x08, policy.to_bytes(8, "little")),
            (0x20, image_id.to_bytes(16, "little")),
            (0x30, level.to_bytes(4, "little")),
            (0x34, algorithm.to_bytes(4, "little")),
            (0x38, reported),
            (0x48, (kind << 2 | author).to_bytes(4, "little")),
            (0x50, report_data),
            (0x90, launch),
            (0xE0, id_key),
            (0x110, AUTHOR_KEY if author else bytes(48)),
            (0x180, reported),
            (0x188, (model or _MODEL[self.product]) if version >= 3 else b""),
            (0x1A0, chip),
            (0x1E0, tcb_bytes(self.product, committed or tcb or TCB)),
            (0x1F0, reported),
        ):
            body[at : at + len(part)] = part
        r, s = decode_dss_signature(self._key.sign(bytes(body), ec.ECDSA(SHA384())))
        return bytes(body) + r.to_bytes(72, "little") + s.to_bytes(72, "little") + reserved

    def evidence(
        self, report_data: bytes, entries: dict[str, bytes] | None = None, **changes: Any
    ) -> Evidence:
        """A whole bundle; `changes` are arguments of `report`."""
        body = self.report(report_data, **changes)
        return Evidence(SEV_SNP, body, pack_table(entries or self.entries()))


def _with_serial_0(certificate: x509.Certificate, by: rsa.RSAPrivateKey) -> x509.Certificate:
    """The same with the number that AMD gives, which no builder does; signed again."""
    whole, old = certificate.public_bytes(Encoding.DER), certificate.tbs_certificate_bytes
    new = old.replace(bytes((2, 1, _SERIAL)), b"\2\1\0", 1)
    signature = by.sign(new, _PSS, SHA384())
    der = whole.replace(old, new)[: -len(signature)] + signature
    return x509.load_der_x509_certificate(der)

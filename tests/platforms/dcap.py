"""A software platform that quotes as Intel's does: own root, own PCK, own quoting enclave.

Formats: Intel's "SGX ECDSA Quote Library API" (SGX quote version 3, TDX quote version 4), "SGX PCK
Certificate and CRL Profile Specification", and the PCS API version 4 (TCB info 3, QE identity 2).
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers.dcap import SGX, TDX, Collateral

NOW = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())
DAY = 86_400
SVN = 5  # of each part of this platform's TCB
PCE_SVN = 11
MRENCLAVE, MRSIGNER = b"\x11" * 32, b"\x22" * 32
MRTD, RTMRS = b"\x33" * 48, tuple(bytes([0x40 + n]) * 48 for n in range(4))
QE_SIGNER = b"\x77" * 32
_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_SGX_OID = "1.2.840.113741.1.13.1"
_TEE = {SGX: 0, TDX: 0x81}


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _iso(seconds: float) -> str:
    return _time(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def _der(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    spelt = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(spelt))) + spelt + body


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = bytearray()
    for arc in (40 * first + second, *rest):
        part = [arc & 0x7F]
        while arc := arc >> 7:
            part.append(0x80 | arc & 0x7F)
        out += bytes(reversed(part))
    return _der(6, bytes(out))


def _sequence(parts: Iterable[bytes]) -> bytes:
    return _der(0x30, b"".join(parts))


def _pair(suffix: str, value: bytes) -> bytes:
    return _sequence((_oid(f"{_SGX_OID}.{suffix}"), value))


def _sgx_extension(fmspc: bytes, svn: int) -> bytes:
    tcb = [_pair(f"2.{n}", _der(2, bytes([svn]))) for n in range(1, 17)]
    tcb += [_pair("2.17", _der(2, bytes([PCE_SVN]))), _pair("2.18", _der(4, bytes([svn]) * 16))]
    switches = (_pair(f"7.{n}", _der(1, b"\xff")) for n in (1, 2, 3))
    return _sequence(
        (
            _pair("1", _der(4, b"PPID of software")),
            _pair("2", _sequence(tcb)),
            _pair("3", _der(4, bytes(2))),
            _pair("4", _der(4, fmspc)),
            _pair("5", _der(10, b"\x01")),
            _pair("6", _der(4, b"instance of soft")),
            _pair("7", _sequence(switches)),
        )
    )


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Authority:
    """A key with a certificate that another key, or itself, has signed."""

    def __init__(
        self, name: str, by: "Authority | None" = None, extension: bytes | None = None, **dates: int
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.by = by or self
        leaf = extension is not None or "Signing" in name
        ends = dates.get("ends", NOW + 3650 * DAY)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by.certificate.subject if by else subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_time(dates.get("starts", NOW - 365 * DAY)))
            .not_valid_after(_time(ends))
            .add_extension(x509.BasicConstraints(not leaf, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.by.key.public_key()), False
            )
            .add_extension(
                x509.KeyUsage(leaf, leaf, False, False, False, not leaf, not leaf, False, False),
                True,
            )
        )
        if extension is not None:
            oid = x509.ObjectIdentifier(_SGX_OID)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), False)
        self.certificate = builder.sign(self.by.key, SHA256())
        self.der = self.certificate.public_bytes(Encoding.DER)

    def crl(self, *revoked: "Authority", ends: int = NOW + 30 * DAY, others: int = 0) -> bytes:
        """A revocation list (DER) of this authority, with keys of `others` on it."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(_time(NOW - DAY))
            .next_update(_time(ends))
            .add_extension(x509.CRLNumber(1), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
        )
        serials = [one.certificate.serial_number for one in revoked]
        serials += (x509.random_serial_number() for _ in range(others))
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(_time(NOW - 2 * DAY))
                .build()
            )
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.DER)


class SoftwareDcap:
    """One platform; a second one has other keys, and the same root if it is given one."""

    def __init__(
        self,
        root: Authority | None = None,
        *,
        fmspc: bytes = b"\x00\xa0\x67\x11\x00\x00",
        svn: int = SVN,
        pck_ends: int = NOW + 3650 * DAY,
    ) -> None:
        self.root = root or Authority("Software SGX Root CA")
        self.platform_ca = Authority("Software PCK Platform CA", self.root)
        self.tcb_signer = Authority("Software TCB Signing", self.root)
        extension = _sgx_extension(fmspc, svn)
        self.pck = Authority("Software PCK", self.platform_ca, extension, ends=pck_ends)
        self._attestation = ec.generate_private_key(ec.SECP256R1())
        self._fmspc = fmspc

    @property
    def insecure_root(self) -> Digest:
        """By which an owner would allow this platform."""
        return Digest.of(self.root.der)

    def quote(
        self,
        provider: str,
        report_data: bytes,
        *,
        attributes: bytes | None = None,
        signer: bytes = MRSIGNER,
        product: int = 7,
        svn: int = 3,
        rtmr3: bytes = RTMRS[3],
        service_td: bytes = b"",
        chain_root: Authority | None = None,
    ) -> bytes:
        """An SGX quote of version 3, or a TDX quote of version 4 (or 5, if it has a service TD)."""
        if provider == SGX:
            version, body = (
                3,
                sgx_report(attributes or b"\x05", MRENCLAVE, signer, product, svn, report_data),
            )
        else:
            td = attributes or bytes.fromhex("0000001000000000")
            version, body = 4, td_report(td, (*RTMRS[:3], rtmr3), report_data)
            if service_td:
                full = body + body[:16] + service_td
                version, body = 5, b"\x03\0" + len(full).to_bytes(4, "little") + full
        head = version.to_bytes(2, "little") + b"\x02\0" + _TEE[provider].to_bytes(4, "little")
        signed = head + bytes(4) + _QE_VENDOR + bytes(20) + body
        auth = self._auth(signed, version, chain_root or self.root)
        return signed + len(auth).to_bytes(4, "little") + auth

    def _auth(self, signed: bytes, version: int, root: Authority) -> bytes:
        public = self._attestation.public_key()
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        data = bytes(range(32))
        bound = hashlib.sha256(point + data).digest() + bytes(32)
        kind = 1 if version == 3 else 2
        qe = sgx_report(b"\x11", b"\x66" * 32, QE_SIGNER, kind, 8, bound)
        pem = b"".join(
            one.certificate.public_bytes(Encoding.PEM) for one in (self.pck, self.platform_ca, root)
        )
        chain = b"\x05\0" + (len(pem) + 1).to_bytes(4, "little") + pem + b"\0"
        certified = qe + _sign(self.pck.key, qe) + len(data).to_bytes(2, "little") + data + chain
        if version > 3:
            certified = b"\x06\0" + len(certified).to_bytes(4, "little") + certified
        return _sign(self._attestation, signed) + point + certified

    def collateral(
        self,
        provider: str,
        *,
        status: str = "UpToDate",
        advisories: tuple[str, ...] = (),
        evaluation: int = 17,
        least_svn: int = SVN,
        issued: int = NOW - DAY,
        ends: int = NOW + 29 * DAY,
        qe_ends: int = NOW + 29 * DAY,
        revoked: tuple[Authority, ...] = (),
        crl_ends: int = NOW + 30 * DAY,
        qe_signer: bytes = QE_SIGNER,
        qe_status: str = "UpToDate",
        older: int = 0,
        others: int = 0,
    ) -> Collateral:
        """What Intel would say of this platform; changes are what a test wants it to say.

        `older` levels of the TCB and `others` revoked keys make it as long as the real thing.
        """
        parts = [{"svn": least_svn}] * 16
        level: dict[str, Any] = {"sgxtcbcomponents": parts, "pcesvn": PCE_SVN}
        if provider == TDX:
            level["tdxtcbcomponents"] = [parts[0], {"svn": 0}, *parts[2:]]
        common = {
            "issueDate": _iso(issued), "nextUpdate": _iso(ends),
            "tcbEvaluationDataNumber": evaluation,
        }  # fmt: skip
        date = _iso(NOW - 400 * DAY)
        info: dict[str, Any] = {
            "id": provider.upper(), "version": 3, **common,
            "fmspc": self._fmspc.hex().upper(), "pceId": "0000", "tcbType": 0,
            "tcbLevels": [
                {"tcb": level, "tcbDate": date, "tcbStatus": status,
                 "advisoryIDs": list(advisories)}
            ],
        }  # fmt: skip
        for number in range(older):
            below = level | {"pcesvn": PCE_SVN - 1 - number % 5}
            was = _iso(NOW - (500 + 90 * number) * DAY)
            reason = [f"INTEL-SA-{500 + n:05}" for n in range(number + 1)]
            info["tcbLevels"].append(
                {"tcb": below, "tcbDate": was, "tcbStatus": "OutOfDate", "advisoryIDs": reason}
            )
        if provider == TDX:
            mask = {"attributes": "00" * 8, "attributesMask": "FF" * 8}
            info["tdxModule"] = {"mrsigner": "00" * 48, **mask}
        identity = {
            "id": "QE" if provider == SGX else "TD_QE", "version": 2, **common,
            "nextUpdate": _iso(qe_ends),
            "miscselect": "00" * 4, "miscselectMask": "FF" * 4,
            "attributes": "11" + "00" * 15, "attributesMask": "FB" + "FF" * 7 + "00" * 8,
            "mrsigner": qe_signer.hex().upper(), "isvprodid": 1 if provider == SGX else 2,
            "tcbLevels": [{"tcb": {"isvsvn": 8}, "tcbDate": date, "tcbStatus": qe_status}],
        }  # fmt: skip
        texts = [json.dumps(one, separators=(",", ":")) for one in (info, identity)]
        signatures = [_sign(self.tcb_signer.key, text.encode()) for text in texts]
        chain = (self.tcb_signer.der,)
        by = {
            id(ca): tuple(r for r in revoked if r.by is ca) for ca in (self.root, self.platform_ca)
        }
        return Collateral(
            root=self.root.der,
            tcb_chain=chain,
            tcb_info=texts[0],
            tcb_signature=signatures[0],
            qe_chain=chain,
            qe_identity=texts[1],
            qe_signature=signatures[1],
            root_crl=self.root.crl(*by[id(self.root)], ends=crl_ends),
            pck_crl=self.platform_ca.crl(*by[id(self.platform_ca)], ends=crl_ends, others=others),
        )

    def evidence(self, provider: str, report_data: bytes, **changes: Any) -> Evidence:
        """A whole bundle; `changes` of either part."""
        of_quote = {"attributes", "signer", "product", "svn", "rtmr3", "service_td", "chain_root"}
        quote = {k: v for k, v in changes.items() if k in of_quote}
        rest = {k: v for k, v in changes.items() if k not in of_quote}
        body = self.quote(provider, report_data, **quote)
        return Evidence(provider, body, self.collateral(provider, **rest).pack())


def sgx_report(
    attributes: bytes, mrenclave: bytes, mrsigner: bytes, product: int, svn: int, data: bytes
) -> bytes:
    """The 384 bytes of an enclave's report."""
    head = bytes([SVN]) * 16 + bytes(32) + attributes.ljust(16, b"\0")
    code = mrenclave + bytes(32) + mrsigner + bytes(96)
    numbers = product.to_bytes(2, "little") + svn.to_bytes(2, "little")
    return head + code + numbers + bytes(60) + data


def td_report(attributes: bytes, rtmrs: tuple[bytes, ...], data: bytes) -> bytes:
    """The 584 bytes of a TD's report, version 1.0."""
    head = bytes([SVN, 0]) + bytes([SVN]) * 14 + bytes(48 + 48 + 8)
    xfam = bytes.fromhex("e702060000000000")
    return head + attributes + xfam + MRTD + bytes(3 * 48) + b"".join(rtmrs) + data

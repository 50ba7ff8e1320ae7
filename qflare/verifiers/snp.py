"""`sev_snp`: attestation reports of AMD SEV-SNP, verified with the certificates of AMD's chips.

Layouts are those of AMD's "SEV Secure Nested Paging Firmware ABI Specification" (report versions 2,
3 and 5), of "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface" (extensions) and
of the "Guest-Hypervisor Communication Block" (the certificate table). AMD publishes no list of good
TCBs, so a TCB is "Committed" (it is what runs, is reported, and can't be taken back) or
"Provisional".
"""

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.utils import CryptographyDeprecationWarning

from qflare.faults import PeerFault, Reason
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.record import check
from qflare.verifiers.facts import Facts, Tier, refused
from qflare.verifiers.quote import REGISTER, snp_measurement

SEV_SNP: Final = "sev_snp"
COMMITTED, PROVISIONAL = "Committed", "Provisional"
# SHA-256 of AMD's root keys' certificates (DER), valid until 2045 and later.
AMD_ROOTS: Final = {
    Digest.parse("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"): "Milan",
    Digest.parse("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"): "Genoa",
    Digest.parse("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"): "Turin",
}
# Where a TCB's parts are in its eight bytes, and the extension (below 1.3.6.1.4.1.3704.1.3) that
# has each part's security patch level: boot loader 1, TEE 2, SNP 3, microcode 8, and FMC 9.
PARTS = {0: 1, 1: 2, 6: 3, 7: 8}
PARTS_TURIN = {0: 9, 1: 1, 2: 2, 3: 3, 7: 8}
# Family and models of the processors that each root is for (report version 3 and later).
MODELS = {
    "Milan": (0x19, range(0x10)),
    "Genoa": (0x19, (*range(0x10, 0x20), *range(0xA0, 0xB0))),
    "Turin": (0x1A, range(0x20)),
}
_OID = "1.3.6.1.4.1.3704.1."
_VCEK, _VLEK = 0, 1
_MIGRATION, _DEBUG = 1 << 18, 1 << 19  # bits of the guest's policy
_SIGNED = 0x2A0  # bytes of the report

# Names of a table's entries, as they are in memory.
TABLE: Final = {
    "vcek": bytes.fromhex("63da758de6644564adc5f4b93be8accd"),
    "vlek": bytes.fromhex("a8074bc2a25a483eaae639c045a0b8a1"),
    "ask": bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782"),
    "ark": bytes.fromhex("c0b406a4a803495297433fb6014cd0ae"),
    "crl": bytes.fromhex("92f81bc358114d3d97ffd19f88dc67ea"),
}
_ENTRY = 24  # bytes: name, offset, length

# AMD's chip certificates have the serial number 0, which the library wants to refuse some day; its
# range of versions is pinned in pyproject.toml, and a test says when that day is here.
warnings.filterwarnings("ignore", ".*serial number.*", CryptographyDeprecationWarning)


def pack_table(entries: dict[str, bytes]) -> bytes:
    """The table of certificates (DER) by their names, in the order of TABLE, without gaps."""
    head, body = b"", b""
    start = _ENTRY * (len(entries) + 1)
    for name in (name for name in TABLE if name in entries):
        at, data = start + len(body), entries[name]
        head += TABLE[name] + at.to_bytes(4, "little") + len(data).to_bytes(4, "little")
        body += data
    return head + bytes(_ENTRY) + body


def parse_table(data: bytes) -> dict[str, bytes]:
    """The inverse of `pack_table`; raise PeerFault for anything else."""
    names = {guid: name for name, guid in TABLE.items()}
    entries: dict[str, bytes] = {}
    for at in range(0, min(len(data), _ENTRY * (len(TABLE) + 1)), _ENTRY):
        name = names.get(data[at : at + 16])
        if name is None:
            break
        offset, length = (int.from_bytes(data[at + n : at + n + 4], "little") for n in (16, 20))
        entries[name] = data[offset : offset + length]
    check(pack_table(entries) == data, "no certificate table in its one spelling", Reason.MALFORMED)
    return entries


@dataclass(frozen=True)
class _Chain:
    """The certificates that speak for a report's key, verified up to `root`."""

    root: Digest
    product: str
    key: x509.Certificate
    shared: bool  # the key is the cloud's (VLEK), not the chip's (VCEK)
    expires: int


def verify(evidence: Evidence, insecure_roots: tuple[Digest, ...], now: int) -> Facts:
    """Verify a report at `now` (Unix seconds); raise PeerFault for what is not genuine.

    A root in `insecure_roots` is taken in place of AMD's, and its evidence is worth nothing.
    """
    report = evidence.body
    measurement = snp_measurement(report)
    version = _number(report, 0, 4)
    check(version in (2, 3, 5), f"an SEV-SNP report of version {version}")
    entries = parse_table(evidence.endorsements)
    try:
        chain = _verify_chain(entries, insecure_roots, now)
        _verify_signature(report, chain.key)
        _verify_key(report, chain)
    except PeerFault:
        raise
    except InvalidSignature:
        raise refused("the report's signature doesn't verify") from None
    except Exception as error:  # the library has a dozen kinds for what isn't a certificate
        raise refused(f"bad certificates: {str(error)[:120]}") from None
    if version >= 3:
        family, models = MODELS[chain.product]
        of_product = report[0x188] == family and report[0x189] in models
        check(of_product, f"the report is not from a {chain.product}", Reason.EVIDENCE_REFUSED)
    policy = _number(report, 0x08, 8)
    if policy & _MIGRATION:
        raise refused("its policy allows a migration agent, which can move its memory")
    if level := _number(report, 0x30, 4):
        raise refused(f"the report was asked for at privilege level {level}, not 0")
    same = report[0x38:0x40] == report[0x180:0x188] == report[0x1E0:0x1E8]
    return Facts(
        tier=Tier.HARDWARE if chain.root in AMD_ROOTS else Tier.SIMULATED,
        report_data=report[0x50:0x90],
        measurement=measurement,
        registers=(
            ("launch", report[0x90 : 0x90 + REGISTER]),
            ("host_data", report[0xC0:0xE0]),
            ("reported_tcb", report[0x180:0x188]),
            ("chip_id", report[0x1A0:0x1E0]),
        ),
        signer=_signer(report),
        product=int.from_bytes(report[0x20:0x30] + report[0x10:0x20], "little"),
        svn=_number(report, 0x04, 4),
        debug=bool(policy & _DEBUG),
        tcb_status=COMMITTED if same else PROVISIONAL,
        expires=chain.expires,
    )


def _number(report: bytes, at: int, size: int) -> int:
    return int.from_bytes(report[at : at + size], "little")


def _signer(report: bytes) -> Digest | None:
    """Of the author key, if it is used, else of the ID key; None for a guest without them."""
    at = 0x110 if report[0x48] & 1 else 0xE0
    key = report[at : at + REGISTER]
    return Digest.of(b"qflare/1/sev-snp-signer\0", key) if any(key) else None


def _verify_chain(entries: dict[str, bytes], roots: tuple[Digest, ...], now: int) -> _Chain:
    """ARK to ASK to VCEK or VLEK, none revoked and all in their time; raises as cryptography."""
    shared = "vlek" in entries
    leaf = "vlek" if shared else "vcek"
    for name in ("ark", "ask", leaf, "crl"):
        if name not in entries:
            raise refused(f"no {name.upper()} in its endorsements: the coordinator has to add it")
    check(len(entries) == 4, "endorsements for two keys")
    root = Digest.of(entries["ark"])
    product = AMD_ROOTS.get(root)
    if product is None and root not in roots:
        raise refused(f"its root {root.short} is not AMD's")
    ark, ask, key = (x509.load_der_x509_certificate(entries[n]) for n in ("ark", "ask", leaf))
    if product is None:
        product = _common_name(ark.subject).removeprefix("ARK-")
        check(product in MODELS, f"a root for {product[:40]!r}")
    wanted = f"SEV-VLEK-{product}" if shared else f"SEV-{product}"
    check(_common_name(ask.subject) == wanted, f"its signing key is not {wanted}")
    for certificate, issuer, name in ((ark, ark, "ARK"), (ask, ark, "ASK"), (key, ask, "key")):
        try:
            certificate.verify_directly_issued_by(issuer)
        except InvalidSignature:
            raise refused(f"the {name} certificate's signature doesn't verify") from None
    crl = x509.load_der_x509_crl(entries["crl"])
    for name, signature in ((leaf, key.signature), ("ask", ask.signature), ("crl", crl.signature)):
        # A signature is a text of bits; the library overlooks how many of the last don't count.
        check(entries[name][-len(signature) - 1] == 0, "a signature of broken bytes")
    issuer_key = ark.public_key()
    if not isinstance(issuer_key, rsa.RSAPublicKey) or crl.issuer != ark.subject:
        raise refused("the revocation list is another issuer's")
    if not crl.is_signature_valid(issuer_key):
        raise refused("the revocation list's signature doesn't verify")
    # The root revokes signing keys; chips' certificates all have the serial number 0.
    if crl.get_revoked_certificate_by_serial_number(ask.serial_number) is not None:
        raise refused(f"AMD has revoked its signing key {ask.serial_number:x}")
    ends = [c.not_valid_after_utc for c in (ark, ask, key)]
    ends.append(crl.next_update_utc or crl.last_update_utc)
    starts = [c.not_valid_before_utc for c in (ark, ask, key)] + [crl.last_update_utc]
    if not max(starts) <= datetime.fromtimestamp(now, UTC) <= min(ends):
        raise refused("its certificates or revocation list are not of this time")
    return _Chain(root, product, key, shared, int(min(ends).timestamp()))


def _common_name(name: x509.Name) -> str:
    (found,) = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found.value)


def _verify_signature(report: bytes, certificate: x509.Certificate) -> None:
    """ECDSA P-384 with SHA-384, r and s in 72 little-endian bytes each; raise InvalidSignature."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise refused("the report's key is not on the curve P-384")
    check(_number(report, 0x34, 4) == 1, "the report's signature is of another kind")
    check(not any(report[_SIGNED + 144 :]), "something after the report's signature")
    r, s = _number(report, _SIGNED, 72), _number(report, _SIGNED + 72, 72)
    key.verify(encode_dss_signature(r, s), report[:_SIGNED], ec.ECDSA(SHA384()))


def _verify_key(report: bytes, chain: _Chain) -> None:
    """The certificate is of the key that the report names, for this chip and its reported TCB."""
    kind = report[0x48] >> 2 & 7
    if kind != (_VLEK if chain.shared else _VCEK):
        raise refused("the report was signed by another kind of key")
    found = {
        extension.oid.dotted_string.removeprefix(_OID): extension.value.value
        for extension in chain.key.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    if chain.shared:
        check("5" in found and "4" not in found, "no cloud's certificate")
    else:
        chip = found.get("4", b"")
        full = 8 if chain.product == "Turin" else 64
        if len(chip) != full or chip != report[0x1A0 : 0x1A0 + full]:
            raise refused("the certificate is another chip's")
    tcb = report[0x180:0x188]
    parts = PARTS_TURIN if chain.product == "Turin" else PARTS
    for at, part in parts.items():
        level = tcb[at]
        spelt = bytes((2, 1, level)) if level < 0x80 else bytes((2, 2, 0, level))
        if found.get(f"3.{part}") != spelt:
            raise refused("the certificate is for another TCB than the report's")
    if any(tcb[at] for at in range(8) if at not in parts):
        raise refused("the report's TCB has parts that nobody vouches for")

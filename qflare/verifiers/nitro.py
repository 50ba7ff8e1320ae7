"""`nitro`: attestation documents of AWS Nitro Enclaves, COSE_Sign1 under Amazon's root.

Format: AWS, "Verifying the root of trust" (Nitro Enclaves user guide), and RFC 9052. Everything
that speaks for the platform is inside the document, so there are no endorsements. The certificate
of an enclave lives for three hours, and so does its evidence.
"""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from qflare import codec
from qflare.faults import PeerFault, Reason
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.record import check
from qflare.verifiers import cbor
from qflare.verifiers.facts import Facts, Tier, refused
from qflare.verifiers.registers import NITRO_REGISTERS, REGISTER, nitro_measurement

# SHA-256 of the certificate (DER) of "aws.nitro-enclaves", valid until 2049.
AWS_ROOT: Final = Digest.parse("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")
ES384: Final = bytes.fromhex("a1013822")  # the protected header: {1: -35}
_HEAD = b"\x84\x44" + ES384 + b"\xa0"  # an array of four: header, empty map, payload, signature
_SIGNATURE = b"\x58\x60"  # the head of its 96 bytes
_CHAIN_MAX = 8  # certificates; Amazon's has five
# How the library refuses what isn't a certificate, or isn't such a one.
NO_CERTIFICATE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def verify(evidence: Evidence, insecure_roots: tuple[Digest, ...], now: int) -> Facts:
    """Verify a document at `now` (Unix seconds); raise PeerFault for what is not genuine.

    A root in `insecure_roots` is taken in place of Amazon's, and its evidence is worth nothing.
    """
    check(not evidence.endorsements, "Nitro's evidence has no endorsements")
    payload, signature = _split(evidence.body)
    document = cbor.read(payload)
    try:
        root, chain = _chain(document)
        if root != AWS_ROOT and root not in insecure_roots:
            raise refused(f"its root {root.short} is not Amazon's")
        _verify_chain(chain, now)
        _verify_signature(chain[-1], payload, signature)
    except InvalidSignature:
        raise refused("the document's signature doesn't verify") from None
    except NO_CERTIFICATE as error:
        raise refused(f"bad certificates: {str(error)[:120]}") from None
    time = _field(document, "timestamp", int) / 1000
    leaf = chain[-1]
    own = leaf.not_valid_before_utc.timestamp() <= time <= leaf.not_valid_after_utc.timestamp()
    check(own, "the document is of another time than its certificate", Reason.EVIDENCE_REFUSED)
    check(_field(document, "digest", str) == "SHA384", "registers that aren't SHA-384")
    found = _field(document, "pcrs", dict)
    pcrs = [found.get(number) for number in range(NITRO_REGISTERS)]
    check(all(_is_register(pcr) for pcr in pcrs), "no PCR0 to PCR2", Reason.MALFORMED)
    return Facts(
        tier=Tier.HARDWARE if root == AWS_ROOT else Tier.SIMULATED,
        report_data=_field(document, "user_data", bytes | None) or b"",
        measurement=nitro_measurement(b"".join(pcrs)),
        registers=tuple((f"pcr{number}", pcr) for number, pcr in enumerate(pcrs)),
        debug=not any(pcrs[0]),
        expires=int(min(one.not_valid_after_utc for one in chain).timestamp()),
    )


def _split(body: bytes) -> tuple[bytes, bytes]:
    """Payload and signature of COSE_Sign1 in its one spelling, without a tag, as the NSM writes."""
    at = len(body) - len(_SIGNATURE) - 96
    if not body.startswith(_HEAD) or not body[at:].startswith(_SIGNATURE) or at <= len(_HEAD):
        raise PeerFault(Reason.MALFORMED, "no attestation document (COSE_Sign1, ES384)")
    payload = cbor.read(body[len(_HEAD) : at])
    if not isinstance(payload, bytes):
        raise PeerFault(Reason.MALFORMED, "an attestation document without payload")
    return payload, body[-96:]


def _field(document: cbor.Value, name: str, kind: Any) -> Any:
    value = document.get(name) if isinstance(document, dict) else None
    check(isinstance(value, kind), f"the document has no {name}", Reason.MALFORMED)
    return value


def _is_register(value: cbor.Value) -> bool:
    return isinstance(value, bytes) and len(value) == REGISTER


def _chain(document: cbor.Value) -> tuple[Digest, list[x509.Certificate]]:
    """The root's digest; the certificates from the root to the enclave's own."""
    bundle = _field(document, "cabundle", list)
    check(0 < len(bundle) < _CHAIN_MAX, "a chain of another length", Reason.MALFORMED)
    ders = [*bundle, _field(document, "certificate", bytes)]
    check(all(isinstance(der, bytes) for der in ders), "no certificates", Reason.MALFORMED)
    return Digest.of(ders[0]), [x509.load_der_x509_certificate(der) for der in ders]


def _verify_chain(chain: list[x509.Certificate], now: int) -> None:
    """Each issued the next one, may do so, and all are in their time; raises as cryptography."""
    for issuer, certificate in ((chain[0], chain[0]), *pairwise(chain)):
        try:
            certificate.verify_directly_issued_by(issuer)
        except InvalidSignature:
            raise refused("a certificate's signature doesn't verify") from None
    for above_leaf, certificate in enumerate(reversed(chain)):
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if above_leaf == 0:
            may = not basic.ca and usage.digital_signature
        else:
            between = above_leaf - 1  # certificates of authorities below this one
            deep = basic.path_length is None or basic.path_length >= between
            may = basic.ca and usage.key_cert_sign and deep
        check(may, "a certificate is used for what it isn't made for", Reason.EVIDENCE_REFUSED)
    starts = max(one.not_valid_before_utc for one in chain)
    ends = min(one.not_valid_after_utc for one in chain)
    if not starts <= datetime.fromtimestamp(now, UTC) <= ends:
        raise refused("its certificates are not of this time; the enclave has to quote again")


def _verify_signature(leaf: x509.Certificate, payload: bytes, signature: bytes) -> None:
    """ES384 over RFC 9052's Sig_structure; raise InvalidSignature."""
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise refused("the document's key is not on the curve P-384")
    signed = codec.encode(["Signature1", ES384, b"", payload])
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA384()))

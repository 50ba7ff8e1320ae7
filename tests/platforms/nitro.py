"""A Nitro Secure Module in software: own root, and documents and answers in the real formats.

Formats: AWS, "Verifying the root of trust" (Nitro Enclaves user guide), and AWS's nsm-api. CBOR is
written by cbor2, so that the reader under test and its writer have nothing in common.
"""

from datetime import UTC, datetime
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from qflare.messages import Evidence
from qflare.names import Digest

NOW = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())
HOUR = 3600
PCRS = {n: bytes([n + 1 if n < 5 else 0]) * 48 for n in range(16)}
ES384 = cbor2.dumps({1: -35})
Curve = ec.SECP384R1


class Authority:
    """A key with a certificate; dates and rights as a test wants them."""

    def __init__(
        self,
        name: str,
        by: "Authority | None" = None,
        *,
        ca: bool = True,
        path: int | None = None,
        may_sign: bool = True,
        starts: int = NOW - 24 * HOUR,
        ends: int = NOW + 24 * HOUR,
        curve: ec.EllipticCurve | None = None,
        digest: HashAlgorithm | None = None,
        issuer: "Authority | None" = None,
    ) -> None:
        self.key = ec.generate_private_key(curve or Curve())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            not ca and may_sign, False, False, False, False, ca and may_sign, False, False, False
        )
        named = issuer or by
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(named.certificate.subject if named else subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(starts, UTC))
            .not_valid_after(datetime.fromtimestamp(ends, UTC))
            .add_extension(x509.BasicConstraints(ca, path), True)
            .add_extension(usage, not ca)
            .sign((by or self).key, digest or SHA384())
        )
        self.der = self.certificate.public_bytes(Encoding.DER)


class SoftwareNitro:
    """One enclave's module, and the chain above it."""

    def __init__(self, **leaf: Any) -> None:
        self.root = Authority("aws.nitro-enclaves.software")
        self.region = Authority("region", self.root, path=2)
        self.zone = Authority("zone", self.region, path=1)
        self.instance = Authority("instance", self.zone, path=0)
        dates = {"starts": NOW - HOUR, "ends": NOW + 2 * HOUR}
        self.leaf = Authority("enclave", self.instance, **({"ca": False} | dates | leaf))
        self.pcrs = dict(PCRS)
        self.asked: list[Any] = []

    @property
    def insecure_root(self) -> Digest:
        """By which an owner would allow this platform."""
        return Digest.of(self.root.der)

    def fields(self, report_data: bytes | None, **changes: Any) -> dict[str, Any]:
        """What a document says."""
        whole: dict[str, Any] = {
            "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
            "digest": "SHA384",
            "timestamp": NOW * 1000,
            "pcrs": self.pcrs,
            "certificate": self.leaf.der,
            "cabundle": [one.der for one in (self.root, self.region, self.zone, self.instance)],
            "public_key": None,
            "user_data": report_data,
            "nonce": None,
        }
        return {k: v for k, v in (whole | changes).items() if v is not ...}

    def sign(self, payload: bytes, protected: bytes = ES384) -> bytes:
        """COSE_Sign1 over a payload."""
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        key = self.leaf.key
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA384())))
        signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
        return cbor2.dumps([protected, {}, payload, signature])

    def document(self, report_data: bytes | None, **changes: Any) -> bytes:
        """A whole document; `...` leaves a field out."""
        return self.sign(cbor2.dumps(self.fields(report_data, **changes)))

    def evidence(self, report_data: bytes | None, **changes: Any) -> Evidence:
        """A whole bundle."""
        return Evidence("nitro", self.document(report_data, **changes))

    def answer(self, request: bytes) -> bytes:
        """What the module answers to a request."""
        ((what, wanted),) = cbor2.loads(request).items()
        self.asked.append((what, wanted))
        if what == "DescribePCR":
            return cbor2.dumps({what: {"lock": True, "data": self.pcrs[wanted["index"]]}})
        assert what == "Attestation"
        if len(wanted["user_data"]) > 512:
            return cbor2.dumps({"Error": "InputTooLarge"})
        rest = {key: wanted[key] for key in ("nonce", "public_key")}
        document = self.document(wanted["user_data"], **rest)
        return cbor2.dumps({what: {"document": document}})

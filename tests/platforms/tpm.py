"""Quotes as a TPM gives them, by keys in software: every field as a test wants it.

Structures: TCG "TPM 2.0 Library", part 2, and "PC Client Platform Firmware Profile" (event log).
"""

import hashlib
import zlib
from dataclasses import dataclass, field
from struct import pack
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers.registers import TpmQuote, qualifying_data

ATTRIBUTES = (
    0x00050072  # fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign
)
SHA256, RSASSA, RSAPSS, ECDSA = 0x000B, 0x0014, 0x0016, 0x0018
EVENTS = ((0, b"firmware"), (4, b"boot loader"), (9, b"initrd"), (7, b"keys"), (4, b"kernel"))


def sized(data: bytes) -> bytes:
    return pack(">H", len(data)) + data


def event_log(
    events: Any = EVENTS, banks: Any = ((4, 20), (SHA256, 32)), locality: int = 0
) -> bytes:
    """A log in the crypto agile form; `events` are PCRs and what was measured."""
    spec = b"Spec ID Event03\0" + pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
    spec += b"".join(pack("<HH", *bank) for bank in banks) + b"\0"
    log = pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec
    if locality:
        log += _event(0, 3, banks, None, b"StartupLocality\0" + bytes([locality]))
    for pcr, what in events:
        log += _event(pcr, 13, banks, what, b"about " + what)
    return log


def _event(pcr: int, kind: int, banks: Any, what: bytes | None, data: bytes) -> bytes:
    made = pack("<III", pcr, kind, len(banks))
    for algorithm, size in banks:
        digest = hashlib.sha256(what).digest() if what is not None else bytes(64)
        made += pack("<H", algorithm) + digest.ljust(size, b"\0")[:size]
    return made + pack("<I", len(data)) + data


def replayed(events: Any = EVENTS, locality: int = 0) -> dict[int, bytes]:
    """The PCRs that these events lead to."""
    values = {n: bytes(32) for n in range(24)}
    values[0] = bytes(31) + bytes([locality])
    for pcr, what in events:
        values[pcr] = hashlib.sha256(values[pcr] + hashlib.sha256(what).digest()).digest()
    return values


@dataclass
class SoftwareTpm:
    """A key that signs quotes."""

    scheme: int = ECDSA
    attributes: int = ATTRIBUTES
    key: Any = None
    pcrs: dict[int, bytes] = field(default_factory=replayed)

    def __post_init__(self) -> None:
        if self.key is None:
            ecc = self.scheme == ECDSA
            self.key = (
                ec.generate_private_key(ec.SECP256R1())
                if ecc
                else rsa.generate_private_key(65537, 2048)
            )

    def area(self, **changes: int) -> bytes:
        """TPMT_PUBLIC."""
        one = {"name": SHA256, "symmetric": 0x10, "hash": SHA256, "curve": 3, "kdf": 0x10,
               "bits": 2048, "scheme": self.scheme} | changes  # fmt: skip
        numbers = self.key.public_key().public_numbers()
        kind = 0x23 if isinstance(numbers, ec.EllipticCurvePublicNumbers) else 1
        head = pack(">HHI", one.get("kind", kind), one["name"], self.attributes) + sized(b"")
        head += pack(">HHH", one["symmetric"], one["scheme"], one["hash"])
        if isinstance(numbers, ec.EllipticCurvePublicNumbers):
            point = sized(numbers.x.to_bytes(32, "big")) + sized(numbers.y.to_bytes(32, "big"))
            return head + pack(">HH", one["curve"], one["kdf"]) + point
        return head + pack(">HI", one["bits"], 0) + sized(numbers.n.to_bytes(256, "big"))

    @property
    def name(self) -> Digest:
        return Digest.of(self.area())

    def attest(self, bound: bytes, selected: Any = range(10), **changes: Any) -> bytes:
        """TPMS_ATTEST."""
        one = {"magic": 0xFF544347, "type": 0x8018, "bank": SHA256, "banks": 1, "size": 3} | changes
        bits = sum(1 << n for n in selected).to_bytes(one["size"], "little")
        digest = hashlib.sha256(b"".join(self.pcrs[n] for n in selected)).digest()
        made = pack(">IH", one["magic"], one["type"]) + sized(b"\0\x0b" + self.name.raw)
        made += sized(bound) + pack(">QIIBQ", 77, 1, 0, 1, 0x2020)
        made += pack(">IHB", one["banks"], one["bank"], one["size"]) + bits
        return made + sized(one.get("digest", digest)) + one.get("after", b"")

    def sign(self, data: bytes, scheme: int | None = None) -> bytes:
        """TPMT_SIGNATURE."""
        head = pack(">HH", scheme or self.scheme, SHA256)
        if self.scheme == ECDSA:
            r, s = decode_dss_signature(self.key.sign(data, ec.ECDSA(hashes.SHA256())))
            return head + sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))
        pad: Any = padding.PKCS1v15()
        if self.scheme == RSAPSS:
            pad = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        return head + sized(self.key.sign(data, pad, hashes.SHA256()))

    def quote(self, report_data: bytes, log: bytes = b"", **changes: Any) -> TpmQuote:
        """The body of evidence; `changes` of its attest."""
        packed = zlib.compress(log) if log else b""
        attest = self.attest(qualifying_data(report_data, packed), **changes)
        quoted = sized(attest) + self.sign(attest)
        return TpmQuote(quoted, self.area(), report_data, packed)

    def evidence(self, report_data: bytes, log: bytes = b"", **changes: Any) -> Evidence:
        """A whole bundle."""
        return Evidence("tpm", self.quote(report_data, log, **changes).to_bytes())

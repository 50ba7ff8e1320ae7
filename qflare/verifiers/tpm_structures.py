"""The few structures of TCG's "TPM 2.0 Library", part 2, that a relying party reads."""

import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from qflare.faults import PeerFault, Reason
from qflare.names import Digest
from qflare.record import check

SHA256: Final = 0x000B
RSA, ECC, NULL = 0x0001, 0x0023, 0x0010
RSASSA, RSAPSS, ECDSA = 0x0014, 0x0016, 0x0018
P256 = 0x0003
# What an attestation key's attributes have to say, and mustn't (TPMA_OBJECT).
_WANTED = {
    1 << 1: "another TPM could hold it (fixedTPM)",
    1 << 4: "it could be moved to another parent (fixedParent)",
    1 << 5: "its secret came from outside (sensitiveDataOrigin)",
    1 << 16: "it signs what isn't the TPM's own (restricted)",
    1 << 18: "it doesn't sign (sign)",
}
_DECRYPT = 1 << 17


class Reader:
    """Takes one structure apart from the front; raises PeerFault(MALFORMED) past the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        part = self._data[self._at : self._at + size]
        self._at += size
        check(len(part) == size, "a TPM structure is truncated", Reason.MALFORMED)
        return part

    def numbers(self, form: str) -> tuple[int, ...]:
        """The next numbers, by `struct`'s form; big-endian unless it says otherwise."""
        form = form if form[0] == "<" else ">" + form
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def number(self, form: str) -> int:
        """The next number."""
        (value,) = self.numbers(form)
        return value

    def sized(self, most: int = 4096) -> bytes:
        """The next TPM2B: a size of two bytes, and so many bytes, at most `most`."""
        size = self.number("H")
        check(size <= most, "a TPM structure is too large", Reason.TOO_LARGE)
        return self.take(size)

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def end(self) -> None:
        """Raise PeerFault unless everything was taken."""
        check(not self.more, "bytes after a TPM structure", Reason.MALFORMED)


@dataclass(frozen=True)
class TpmKey:
    """A TPM's signing key (TPMT_PUBLIC)."""

    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    scheme: int  # RSASSA, RSAPSS or ECDSA, with SHA-256
    attributes: int  # TPMA_OBJECT
    area: bytes  # TPMT_PUBLIC

    @property
    def name(self) -> Digest:
        """The key's name at its TPM, without the algorithm: SHA-256 of its public area."""
        return Digest.of(self.area)

    @property
    def missing(self) -> str:
        """Why it can't be an attestation key; empty if it can."""
        if self.attributes & _DECRYPT:
            return "it decrypts too (decrypt)"
        return next((why for bit, why in _WANTED.items() if not self.attributes & bit), "")


def parse_key(area: bytes) -> TpmKey:
    """Parse TPMT_PUBLIC of a key that signs with SHA-256, over P-256 or RSA of 2,048 bits and more.

    Raises PeerFault for any other.
    """
    reader = Reader(area)
    kind, name_algorithm, attributes = reader.numbers("HHI")
    check(name_algorithm == SHA256, "a TPM's key that isn't named by SHA-256")
    reader.sized()  # authPolicy
    symmetric, scheme, digest = reader.numbers("HHH")
    right = {ECC: (ECDSA,), RSA: (RSASSA, RSAPSS)}.get(kind, ())
    signs = symmetric == NULL and scheme in right and digest == SHA256
    check(signs, "a TPM's key that doesn't sign by ECDSA, RSASSA or RSAPSS with SHA-256")
    try:
        public = _ecc(reader) if kind == ECC else _rsa(reader)
    except ValueError:
        raise PeerFault(Reason.BAD_VALUE, "a TPM's key that is no point or modulus") from None
    reader.end()
    return TpmKey(public, scheme, attributes, area)


def _ecc(reader: Reader) -> ec.EllipticCurvePublicKey:
    curve, derivation = reader.numbers("HH")
    check(curve == P256 and derivation == NULL, "a TPM's key on another curve than P-256")
    x, y = (int.from_bytes(reader.sized(32), "big") for _ in range(2))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _rsa(reader: Reader) -> rsa.RSAPublicKey:
    bits, exponent = reader.numbers("HI")
    modulus = reader.sized(512)
    check(2048 <= bits == len(modulus) * 8, "a TPM's RSA key of another size")
    number = int.from_bytes(modulus, "big")
    check(number.bit_length() == bits, "a TPM's RSA key of another size")
    return rsa.RSAPublicNumbers(exponent or 65537, number).public_key()

"""Suites: named as a whole, chosen by the round policy, never mixed.

A suite fixes every algorithm but one: the AEAD, which the sealing side picks from the suite's
list by what its processor does fast, and writes in front of the ciphertext.
"""

from dataclasses import dataclass
from enum import IntEnum

from qflare.faults import PeerFault, Reason


class Aead(IntEnum):
    """The AEADs of HPKE; the value is the identifier of RFC 9180, section 7.3."""

    AES_256_GCM = 2
    CHACHA20_POLY1305 = 3


@dataclass(frozen=True, slots=True)
class Suite:
    """Every algorithm and every size (in bytes) that a session needs to agree on.

    `seal_overhead` is what sealing adds to a plaintext: one byte that names the AEAD, the
    encapsulated key, the tag of the AEAD. Seeds are a private key's stored form.
    """

    name: str
    kem: str
    signature: str
    kem_public_length: int
    kem_seed_length: int
    encapsulated_length: int
    verify_key_length: int
    signature_length: int
    signing_seed_length: int = 32  # FIPS 204, ML-DSA.KeyGen: ξ is 32 random bytes
    kdf: str = "HKDF-SHA256"
    aeads: tuple[Aead, ...] = (Aead.AES_256_GCM, Aead.CHACHA20_POLY1305)
    tag_length: int = 16

    @property
    def seal_overhead(self) -> int:
        return 1 + self.encapsulated_length + self.tag_length

    def __str__(self) -> str:
        return self.name


XWING_MLDSA65 = Suite(
    name="xwing-mldsa65",
    kem="MLKEM768-X25519",  # HPKE 0x647a: 1,088 bytes of ML-KEM-768, then 32 of X25519
    signature="ML-DSA-65",
    kem_public_length=1184 + 32,
    kem_seed_length=64 + 32,
    encapsulated_length=1088 + 32,
    verify_key_length=1952,
    signature_length=3309,
)

FRODO640AES_MLDSA44 = Suite(
    name="frodo640aes-mldsa44",
    kem="FrodoKEM-640-AES/salted+X25519",  # ISO's variant, for keys that many encapsulate to
    signature="ML-DSA-44",
    kem_public_length=9616 + 32,
    kem_seed_length=19888 + 32,  # FrodoKEM's private key itself, as it comes from no seed
    encapsulated_length=9752 + 32,
    verify_key_length=1312,
    signature_length=2420,
)

DEFAULT = XWING_MLDSA65
SUITES = (XWING_MLDSA65, FRODO640AES_MLDSA44)

_BY_NAME = {suite.name: suite for suite in SUITES}


def parse_suite(name: str) -> Suite:
    """Return the suite called `name`; raise PeerFault(WRONG_SUITE) if there is none."""
    suite = _BY_NAME.get(name)
    if suite is None:
        raise PeerFault(Reason.WRONG_SUITE, f"no suite {name[:40]!r}")
    return suite


def suite_of_verify_key(raw: bytes) -> Suite:
    """Return the suite whose verify keys are as long as `raw`, as an owner's key in a file says no
    more; raise PeerFault(MALFORMED) if there is none."""
    for suite in SUITES:
        if len(raw) == suite.verify_key_length:
            return suite
    raise PeerFault(Reason.MALFORMED, f"{len(raw)} bytes are no suite's verify key")


def require_same(expected: Suite, found: Suite) -> None:
    """Raise PeerFault(WRONG_SUITE) unless both are one suite."""
    if expected is not found:
        raise PeerFault(Reason.WRONG_SUITE, f"want {expected}, got {found}")


def parse_aead(suite: Suite, value: int) -> Aead:
    """Return the AEAD numbered `value`; raise PeerFault(WRONG_SUITE) if `suite` has it not."""
    for aead in suite.aeads:
        if aead == value:
            return aead
    raise PeerFault(Reason.WRONG_SUITE, f"{suite} has no AEAD number {value}")


def fast_aead(cpuinfo: str) -> Aead:
    """Choose the AEAD that this processor does fast.

    `cpuinfo` is the text of /proc/cpuinfo: "aes" stands among the "flags" of an x86 and among the
    "Features" of an ARM with AES instructions. A Raspberry Pi 4 has none, and gets ChaCha20.
    """
    for line in cpuinfo.splitlines():
        key, _, words = line.partition(":")
        if key.strip() in ("flags", "Features") and "aes" in words.split():
            return Aead.AES_256_GCM
    return Aead.CHACHA20_POLY1305

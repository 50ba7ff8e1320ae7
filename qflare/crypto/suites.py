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
    wire_id: int
    postquantum: bool
    kem: str
    kdf: str
    aeads: tuple[Aead, ...]
    signature: str
    kem_public_length: int
    kem_seed_length: int
    encapsulated_length: int
    tag_length: int
    verify_key_length: int
    signing_seed_length: int
    signature_length: int

    @property
    def seal_overhead(self) -> int:
        return 1 + self.encapsulated_length + self.tag_length

    def __str__(self) -> str:
        return self.name


XWING_MLDSA65 = Suite(
    name="xwing-mldsa65",
    wire_id=1,
    postquantum=True,
    kem="MLKEM768-X25519",  # HPKE 0x647a: 1,088 bytes of ML-KEM-768, then 32 of X25519
    kdf="HKDF-SHA256",
    aeads=(Aead.AES_256_GCM, Aead.CHACHA20_POLY1305),
    signature="ML-DSA-65",
    kem_public_length=1184 + 32,
    kem_seed_length=64 + 32,
    encapsulated_length=1088 + 32,
    tag_length=16,
    verify_key_length=1952,
    signing_seed_length=32,
    signature_length=3309,
)

DEFAULT = XWING_MLDSA65
SUITES = (XWING_MLDSA65,)

_BY_NAME = {suite.name: suite for suite in SUITES}
_BY_WIRE_ID = {suite.wire_id: suite for suite in SUITES}


def parse_suite(name: str) -> Suite:
    """Return the suite called `name`; raise PeerFault(WRONG_SUITE) if there is none."""
    suite = _BY_NAME.get(name)
    if suite is None:
        raise PeerFault(Reason.WRONG_SUITE, f"no suite {name[:40]!r}")
    return suite


def parse_wire_id(wire_id: int) -> Suite:
    """Return the suite numbered `wire_id`; raise PeerFault(WRONG_SUITE) if there is none."""
    suite = _BY_WIRE_ID.get(wire_id)
    if suite is None:
        raise PeerFault(Reason.WRONG_SUITE, f"no suite number {wire_id}")
    return suite


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

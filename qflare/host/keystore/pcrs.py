"""States of a machine, as a TPM's PCRs tell them, and the owner's approvals of them. Pure.

An approval is a signature over the digest that TPM2_PolicyPCR gives for such a state; a TPM takes
it by TPM2_PolicyAuthorize. The file is the JSON that systemd-measure(1) writes. TPMs verify RSA and
elliptic curves only, and every one RSA of 2,048 bits: that key approves states of machines, and
signs nothing else of QFLARE's.
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import Annotated, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from msgspec import Meta

from qflare.faults import LocalFault
from qflare.host.keystore.form import base64_of, unbase64
from qflare.host.typed import Typed, Unfit, decode

PCRS: Final = 24
STATE_MAX: Final = 8 * 1024
APPROVALS_MAX: Final = 256 * 1024
PEM_MAX: Final = 16 * 1024
_BITS: Final = 2048
_SHA256: Final = 0x000B  # TPM_ALG_SHA256
_POLICY_PCR: Final = 0x0000017F  # TPM_CC_PolicyPCR

_Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Pcr = Annotated[int, Meta(ge=0, le=PCRS - 1)]


class Pcr(Typed):
    """One register's value."""

    number: _Pcr
    value: _Hex32


class State(Typed):
    """What a machine is, for its TPM: the registers that matter, of its bank of SHA-256."""

    pcrs: Annotated[tuple[Pcr, ...], Meta(min_length=1, max_length=PCRS)]

    def __post_init__(self) -> None:
        numbers = [pcr.number for pcr in self.pcrs]
        if numbers != sorted(set(numbers)):
            raise ValueError("pcrs: each once, in rising order")

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(pcr.number for pcr in self.pcrs)

    @property
    def measured(self) -> bool:
        """Did anything measure into one of them? If not, the TPM opens for whatever is started."""
        return any(pcr.value not in ("0" * 64, "f" * 64) for pcr in self.pcrs)

    def policy(self) -> bytes:
        """The digest of TPM2_PolicyPCR (TPM 2.0 part 3, 23.7), of a session that did no more."""
        values = b"".join(bytes.fromhex(pcr.value) for pcr in self.pcrs)
        said = struct.pack(">I", _POLICY_PCR) + selection(self.numbers)
        return hashlib.sha256(bytes(32) + said + hashlib.sha256(values).digest()).digest()


class _Approval(Typed):
    pcrs: tuple[_Pcr, ...]
    pkfp: _Hex32  # SHA-256 of the key (PKCS #1, DER)
    pol: _Hex32
    sig: Annotated[str, Meta(max_length=1024)]


class Approvals(Typed):
    """A file of approvals; the newest last."""

    sha256: Annotated[tuple[_Approval, ...], Meta(max_length=256)] = ()


def selection(numbers: Iterable[int]) -> bytes:
    """TPML_PCR_SELECTION of the bank of SHA-256."""
    bits = bytearray(PCRS // 8)
    for number in numbers:
        bits[number // 8] |= 1 << number % 8
    return struct.pack(">IHB", 1, _SHA256, len(bits)) + bits


def parse_state(data: bytes) -> State:
    """What `qflare keys state` wrote; raise LocalFault."""
    try:
        return decode(State, data)
    except Unfit as error:
        raise LocalFault(f"that is no state of a machine: {error}; see qflare keys state") from None


def parse_approvals(data: bytes) -> Approvals:
    """Raise LocalFault for anything else."""
    try:
        approvals = decode(Approvals, data)
        for approval in approvals.sha256:
            unbase64(approval.sig)
    except (Unfit, ValueError) as error:
        raise LocalFault(
            f"those are no approvals: {error}; make them by qflare keys approve"
        ) from None
    return approvals


def approver_private(pem: bytes, password: bytes | None) -> rsa.RSAPrivateKey:
    """The key that approves; raise LocalFault for another kind or a wrong password.

    Raises TypeError, as the library does, if it wants a password and got none.
    """
    try:
        key = serialization.load_pem_private_key(pem, password)
    except (ValueError, UnsupportedAlgorithm):
        raise LocalFault("not a private key in PEM, or the password is wrong") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size != _BITS:
        raise LocalFault(_WRONG_KEY)
    return key


def approver_public(pem: bytes) -> rsa.RSAPublicKey:
    """The key that approvals are verified by; raise LocalFault for another kind."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise LocalFault("not a public key in PEM") from None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _BITS:
        raise LocalFault(_WRONG_KEY)
    return key


_WRONG_KEY: Final = (
    f"a TPM wants RSA of {_BITS} bits; make one by: openssl genpkey -algorithm RSA "
    f"-pkeyopt rsa_keygen_bits:{_BITS} -aes256 -out approver.pem"
)


def approve(approvals: Approvals, state: State, key: rsa.RSAPrivateKey) -> Approvals:
    """The approvals with one more; the same if that state was approved by this key already."""
    if approved(approvals, state, key.public_key()):
        return approvals
    digest = state.policy()
    signature = key.sign(digest, padding.PKCS1v15(), hashes.SHA256())
    made = _Approval(
        state.numbers, _fingerprint(key.public_key()), digest.hex(), base64_of(signature)
    )
    return Approvals((*approvals.sha256, made))


def approved(approvals: Approvals, state: State, key: rsa.RSAPublicKey) -> bool:
    """Is one of them for this state and by this key, as the TPM will judge?"""
    digest, by = state.policy(), _fingerprint(key)
    for one in approvals.sha256:
        if (one.pcrs, one.pkfp, one.pol) == (state.numbers, by, digest.hex()):
            try:
                key.verify(unbase64(one.sig), digest, padding.PKCS1v15(), hashes.SHA256())
            except InvalidSignature:
                continue
            return True
    return False


def _fingerprint(key: rsa.RSAPublicKey) -> str:
    form = serialization.PublicFormat.PKCS1
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()

"""Where Intel's and AMD's evidence has what the code was measured to; for verifiers and attesters.

Offsets: Intel's "SGX ECDSA Quote Library API" (quote versions 3 to 5, TD report 1.0) and AMD's "SEV
Secure Nested Paging Firmware ABI" (attestation report). An attester reads its own measurement by
them; a verifier only after the signature over them was verified.
"""

from qflare.faults import PeerFault, Reason
from qflare.names import Digest

SNP_REPORT = 1184  # bytes
REGISTER = 48  # bytes of a SHA-384
_SGX = 0


def body_end(quote: bytes) -> int:
    """Where the part of an Intel quote ends that is signed; raise PeerFault for what is none."""
    version = int.from_bytes(quote[:2], "little")
    if version not in (3, 4, 5) or len(quote) < 54:
        raise PeerFault(Reason.MALFORMED, "not a quote of version 3, 4 or 5")
    return {3: 48 + 384, 4: 48 + 584, 5: 54 + int.from_bytes(quote[50:54], "little")}[version]


def quote_size(quote: bytes) -> int:
    """Length of an Intel quote, which zeros may follow; raise PeerFault for what is none."""
    end = body_end(quote)
    return end + 4 + int.from_bytes(quote[end : end + 4], "little")


def quote_measurement(quote: bytes) -> Digest:
    """MRENCLAVE of an SGX quote, or the digest of a TDX quote's MRTD and RTMR0 to RTMR3."""
    if len(quote) < quote_size(quote):
        raise PeerFault(Reason.MALFORMED, "the quote is truncated")
    if int.from_bytes(quote[4:8], "little") == _SGX:
        return Digest(quote[112:144])
    at = 54 if quote[0] == 5 else 48
    return tdx_measurement(quote[at + 136 : at + 184] + quote[at + 328 : at + 520])


def tdx_measurement(registers: bytes) -> Digest:
    """The measurement of a TD by its registers: MRTD, RTMR0, RTMR1, RTMR2, RTMR3 (240 bytes)."""
    return Digest.of(b"qflare/1/tdx-measurement\0", registers)


def snp_measurement(report: bytes) -> Digest:
    """The measurement of an SEV-SNP guest by its launch digest in a report."""
    if len(report) != SNP_REPORT:
        raise PeerFault(Reason.MALFORMED, f"an SEV-SNP report has {SNP_REPORT} bytes")
    return Digest.of(b"qflare/1/sev-snp-measurement\0", report[0x90 : 0x90 + REGISTER])

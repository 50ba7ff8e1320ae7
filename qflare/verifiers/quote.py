"""Where Intel's and AMD's evidence has what the code was measured to; for verifiers and attesters.

Offsets: Intel's "SGX ECDSA Quote Library API" (quote versions 3 to 5, TD report 1.0) and AMD's "SEV
Secure Nested Paging Firmware ABI" (attestation report). An attester reads its own measurement by
them; a verifier only after the signature over them was verified.
"""

from qflare.faults import Reason
from qflare.names import Digest
from qflare.record import check

SNP_REPORT = 1184  # bytes
REGISTER = 48  # bytes of a SHA-384


def body_end(quote: bytes) -> int:
    """Where the part of an Intel quote ends that is signed; raise PeerFault for what is none."""
    ends = {b"\3\0": 48 + 384, b"\4\0": 48 + 584}
    ends[b"\5\0"] = 54 + int.from_bytes(quote[50:54], "little")
    check(quote[:2] in ends, "not a quote of version 3, 4 or 5", Reason.MALFORMED)
    return ends[quote[:2]]


def trim(quote: bytes) -> bytes:
    """An Intel quote without what follows it; raise PeerFault for what is none."""
    end = body_end(quote)
    size = end + 4 + int.from_bytes(quote[end : end + 4], "little")
    check(size <= len(quote), "the quote is truncated", Reason.MALFORMED)
    return quote[:size]


def quote_measurement(quote: bytes) -> Digest:
    """MRENCLAVE of an SGX quote, or what a TDX quote's MRTD and RTMR0 to RTMR3 make."""
    if trim(quote)[4] == 0:
        return Digest(quote[112:144])
    at = 54 if quote[0] == 5 else 48
    return tdx_measurement(quote[at + 136 : at + 184] + quote[at + 328 : at + 520])


def tdx_measurement(registers: bytes) -> Digest:
    """The measurement of a TD by its registers: MRTD, RTMR0, RTMR1, RTMR2, RTMR3 (240 bytes)."""
    return Digest.of(b"qflare/1/tdx-measurement\0", registers)


def snp_measurement(report: bytes) -> Digest:
    """The measurement of an SEV-SNP guest by its launch digest in a report."""
    check(len(report) == SNP_REPORT, f"a report has {SNP_REPORT} bytes", Reason.MALFORMED)
    return Digest.of(b"qflare/1/sev-snp-measurement\0", report[0x90 : 0x90 + REGISTER])

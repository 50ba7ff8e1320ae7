"""What a Nitro enclave and a machine with a TPM were measured to; for verifiers and attesters.

Small, because the enclave's own providers read it too: it is part of the trusted computing base.
"""

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Final

from qflare.messages import KIB
from qflare.names import Digest
from qflare.record import Record

NITRO: Final = "nitro"
TPM: Final = "tpm"
NITRO_REGISTERS = 3  # PCR0 to PCR2: the image, its kernel, its application
REGISTER = 48  # bytes of a SHA-384
LOG_MAX = 24 * KIB  # compressed; a server's log has about 10
_QUOTED = 44  # bytes at an attest's end: one bank's selection (10), the PCRs' digest (34)


@dataclass(frozen=True)
class TpmQuote(Record):
    """The body of a TPM's evidence; TPM structures as it marshals them."""

    CEILING: ClassVar[int] = 32 * KIB

    quoted: bytes  # TPM2B_ATTEST, TPMT_SIGNATURE: what TPM2_Quote gives
    key: bytes  # TPMT_PUBLIC of the attestation key
    report_data: bytes
    log: bytes  # the firmware's event log, compressed by zlib; empty if there is none


def qualifying_data(report_data: bytes, log: bytes) -> bytes:
    """What the TPM signs beside its PCRs: 32 bytes, as much as every TPM takes."""
    return Digest.of(b"qflare/1/tpm-quote\0", report_data, hashlib.sha256(log).digest()).raw


def nitro_measurement(registers: bytes) -> Digest:
    """The measurement of a Nitro enclave by its PCR0, PCR1, PCR2 (144 bytes)."""
    return Digest.of(b"qflare/1/nitro-measurement\0", registers)


def tpm_measurement(attest: bytes) -> Digest:
    """The measurement of a machine: which PCRs were quoted, and the digest over them."""
    return Digest.of(b"qflare/1/tpm-measurement\0", attest[-_QUOTED:])

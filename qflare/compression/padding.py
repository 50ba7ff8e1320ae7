"""Padding to size buckets, so that a ciphertext's length says little about its content.

Buckets are Padmé's (Nikitin et al., "Reducing metadata leakage from encrypted files and
communication with PURBs", PoPETs 2019): at most 12 % longer, and O(log log length) bits leak.
One 0x80 byte and then zeros (ISO/IEC 7816-4) mark where the payload ends.
"""

from qflare.faults import PeerFault, Reason


def bucket(length: int) -> int:
    """The smallest Padmé length that is at least `length`."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    low_bits = exponent - exponent.bit_length()  # these must be zero
    return (length + (1 << low_bits) - 1) >> low_bits << low_bits


def pad(payload: bytes) -> bytes:
    """Append 0x80 and zeros up to the bucket of len(payload) + 1."""
    return (payload + b"\x80").ljust(bucket(len(payload) + 1), b"\0")


def unpad(data: bytes) -> bytes:
    """The inverse of `pad`; raise PeerFault(MALFORMED) for anything that `pad` does not give."""
    end = data.rfind(b"\x80")  # searched without copying: a payload may have many megabytes
    if end < 0 or data.count(0, end) != len(data) - end - 1 or len(data) != bucket(end + 1):
        raise PeerFault(Reason.MALFORMED, "padding is not in its one spelling")
    return data[:end]

"""A firmware's event log (TCG "PC Client Platform Firmware Profile"), replayed to PCR values.

The log is what Linux gives as /sys/kernel/security/tpm0/binary_bios_measurements: one event in the
old form that names the banks, then events with a digest for each bank. Numbers are little-endian.
"""

from typing import Final

from qflare.faults import Reason
from qflare.names import Digest
from qflare.record import check
from qflare.verifiers.tpm_structures import SHA256, Reader

PCRS: Final = 24
_EVENTS_MAX = 4096
_DATA_MAX = 1 << 18  # bytes of one event: lists of revoked boot loaders are long
_NO_ACTION = 3
_SPEC = b"Spec ID Event03\0"
_LOCALITY = b"StartupLocality\0"
_BANKS_MAX = 8


def replay(log: bytes) -> list[bytes]:
    """What each of the PCRS registers holds after this log; raise PeerFault for what is none.

    Registers 17 to 22, which only a dynamic launch resets, start with ones.
    """
    reader = Reader(log)
    sizes = _banks(reader)
    check(SHA256 in sizes, "an event log without SHA-256")
    values = [bytes([255 if 17 <= n <= 22 else 0]) * 32 for n in range(PCRS)]
    for number in range(_EVENTS_MAX + 1):
        if not reader.more:
            return values
        check(number < _EVENTS_MAX, "an event log with too many events", Reason.TOO_LARGE)
        pcr, kind, banks = reader.numbers("<III")
        check(banks <= len(sizes), "an event of unknown banks", Reason.MALFORMED)
        digests = {}
        for _ in range(banks):
            algorithm = reader.number("<H")
            check(algorithm in sizes, "an event of an unknown bank", Reason.MALFORMED)
            digests[algorithm] = reader.take(sizes[algorithm])
        data = _data(reader)
        if kind == _NO_ACTION:
            if data.startswith(_LOCALITY) and pcr == 0:
                values[0] = bytes(31) + data[len(_LOCALITY) : len(_LOCALITY) + 1].rjust(1, b"\0")
            continue
        check(pcr < PCRS and SHA256 in digests, "an event that extends nothing", Reason.MALFORMED)
        values[pcr] = Digest.of(values[pcr], digests[SHA256]).raw
    return values


def _data(reader: Reader) -> bytes:
    size = reader.number("<I")
    check(size <= _DATA_MAX, "an event is too large", Reason.TOO_LARGE)
    return reader.take(size)


def _banks(reader: Reader) -> dict[int, int]:
    """The size of each bank's digests, by its algorithm, from the first event."""
    _, kind = reader.numbers("<II")
    reader.take(20)  # SHA-1 of nothing
    spec = Reader(_data(reader))
    known = kind == _NO_ACTION and spec.take(len(_SPEC)) == _SPEC
    check(known, "an event log of another form; SHA-1 alone doesn't count", Reason.MALFORMED)
    spec.take(8)  # platform class, version, errata, size of a word
    count = spec.number("<I")
    check(0 < count <= _BANKS_MAX, "an event log with too many banks", Reason.MALFORMED)
    flat = spec.numbers(f"<{2 * count}H")
    sizes = dict(zip(flat[::2], flat[1::2], strict=True))
    check(sizes.get(SHA256, 32) == 32 and max(sizes.values()) <= 64, "banks of an unknown size")
    return sizes

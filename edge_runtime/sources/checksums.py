"""Checksums of serial frames. They find noise; against an attacker they do nothing."""

import binascii
from collections.abc import Callable
from functools import partial, reduce
from operator import xor
from typing import Final

Checksum = Callable[[bytes], int]


def _crc8_of_byte(value: int) -> int:
    for _ in range(8):
        value = (value << 1) ^ (0x07 if value & 0x80 else 0)
    return value & 0xFF


# CRC-8 with polynomial x^8 + x^2 + x + 1 (0x07), as in SMBus 3.1, chapter 6.4 (packet error code).
_CRC8: Final = bytes(map(_crc8_of_byte, range(256)))


def crc8(data: bytes, start: int = 0) -> int:
    """CRC-8/SMBUS; 0xF4 for b"123456789"."""
    for byte in data:
        start = _CRC8[start ^ byte]
    return start


def crc16(data: bytes, start: int = 0xFFFF) -> int:
    """CRC-16 with polynomial 0x1021: 0x29B1 (CCITT-FALSE) for b"123456789", from 0 XMODEM's."""
    return binascii.crc_hqx(data, start)


def exclusive_or(data: bytes) -> int:
    """All bytes XORed, as in the sentences of NMEA 0183."""
    return reduce(xor, data, 0)


def checksum(name: str, start: int | None) -> tuple[Checksum, int]:
    """The checksum of this name and its length in bytes; length 0 is none at all.

    A CRC begins with `start`; None is what each usually begins with, 0 and 0xFFFF.
    """
    match name:
        case "xor":
            return exclusive_or, 1
        case "crc8":
            return partial(crc8, start=(start or 0) & 0xFF), 1
        case "crc16":
            return partial(crc16, start=0xFFFF if start is None else start), 2
    return lambda _data: 0, 0

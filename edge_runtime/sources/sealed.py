"""Samples encrypted where they lie: AES-256-GCM of cryptography, a random nonce a block."""

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from edge_runtime.sources.segment import (
    BROKEN,
    pack_block,
    pack_head,
    parse_inside,
    place_of,
    scan,
)
from qflare.faults import PeerFault, Reason
from qflare.host.files import write_atomic

# NIST SP 800-38D, 8.3: at most 2^32 random nonces a key; at a block a second that is 136 years.
NONCE: Final = 12


class Sealer:
    """A `segment.Cipher` with one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, data: bytes, place: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + self._aead.encrypt(nonce, data, place)

    def open(self, data: bytes, place: bytes) -> bytes:
        try:
            return self._aead.decrypt(data[:NONCE], data[NONCE:], place)
        except (InvalidTag, ValueError):
            raise PeerFault(
                Reason.CANNOT_OPEN, "it was changed, or sealed with another key"
            ) from None

    def convert(self, path: Path, number: int) -> bool:
        """Replace a file of plain samples by a sealed one; False if it is sealed, or is none.

        Whoever has it open goes on reading the old one. Raises OSError if the disk refuses, and
        then the file is as it was.
        """
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                found = scan(file)
            except PeerFault:
                return False
            if found.head.sealed:
                return False
            data = bytearray(pack_head(replace(found.head, sealed=True)))
            for block in found.blocks:
                inside = bytearray(os.pread(file, block.size, block.offset))
                if found.damaged:  # rows may be missing in front of any block
                    marks = parse_inside(inside, block.rows, len(found.head.names)).marks
                    inside[marks + 1] |= BROKEN >> 8
                data += pack_block(
                    block.rows, self.seal(bytes(inside), place_of(number, len(data)))
                )
        finally:
            os.close(file)
        write_atomic(path, bytes(data))
        return True

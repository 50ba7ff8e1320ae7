"""What may be on a disk after a power cut, by the log of what was sent to it.

Simulated: a disk with a volatile cache that keeps its word about flushes. All writes before the
last flush are there. Of later ones each may be there or not, whatever the order, and cut to whole
sectors of 512 bytes. Not simulated: a disk that lies about flushes, that tears a sector, or that
damages what it doesn't write at that moment, as poor SD cards do. The superblock's two sectors go
together: ext4 doesn't mount one of two states (its checksum is wrong), whatever a program does.
"""

import random
from collections.abc import Sequence
from typing import Final

from benchmarks.power_loss.recorder import Kind, Record

SECTOR: Final = 512
_SUPERBLOCK_REST: Final = 1024 + SECTOR  # bytes; where its second sector begins
MODES: Final = ("nothing later", "everything later", "some writes", "some sectors", "one is torn")


class Disk:
    """An image that moves forward along a log."""

    def __init__(self, base: bytes, log: Sequence[Record]) -> None:
        self._log = log
        self._durable = bytearray(base)
        self._done = 0  # records that are in `_durable`
        self.marks: list[bytes] = []  # what had been noted before the last cut

    def cut(self, at: int, mode: str, draw: random.Random) -> bytes:
        """The disk if power went after `at` records; calls go forward only."""
        assert at >= self._done, "cuts are made in order"
        flushes = [i for i in range(self._done, at) if self._log[i].kind is Kind.FLUSH]
        for record in self._log[self._done : flushes[-1] if flushes else self._done]:
            if record.kind is Kind.WRITE:
                _put(self._durable, record.offset, record.data)
        if flushes:
            self._done = flushes[-1]
        self.marks = [r.data for r in self._log[:at] if r.kind is Kind.MARK]
        image = bytearray(self._durable)
        later = [r for r in self._log[self._done : at] if r.kind is Kind.WRITE]
        share = draw.random()
        for number, record in enumerate(later):
            torn = mode == "one is torn" and number == len(later) - 1
            for start in range(0, len(record.data), SECTOR) if later else ():
                match mode:
                    case _ if start and record.offset + start == _SUPERBLOCK_REST:
                        pass  # as the sector before
                    case "nothing later":
                        there = False
                    case "some sectors":
                        there = draw.random() < share
                    case "some writes":
                        there = draw.random() < share if start == 0 else there
                    case _:
                        there = not torn or draw.random() < 0.5
                if there:
                    piece = record.data[start : start + SECTOR]
                    _put(image, record.offset + start, piece)
        return bytes(image)


def _put(image: bytearray, at: int, data: bytes) -> None:
    image[at : at + len(data)] = data

"""Frames out of a stream of bytes, however it was cut and whatever noise is in it. Pure.

A deframer takes bytes as they come and gives whole payloads whose checksum is right; what is not
one is counted. It never raises, and it holds at most one frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from edge_runtime.sources.checksums import checksum
from edge_runtime.sources.settings import SerialSection

FRAME_MAX: Final = 4096  # bytes; a longer one is noise


@dataclass(slots=True)
class Counts:
    """What came over a line."""

    bytes: int = 0
    frames: int = 0  # good ones
    bad: int = 0  # frames with a wrong checksum or form
    overlong: int = 0  # what went on for more than FRAME_MAX bytes


class Deframer(Protocol):
    """`feed` gives each payload, or None where a frame was lost, so that a gap can be marked."""

    counts: Counts

    def feed(self, data: bytes) -> Iterator[bytes | None]: ...

    def reset(self) -> None:
        """Forget half a frame: the line was opened anew."""
        ...


class _Delimited:
    """Frames that end with one byte; subclasses say what is in them."""

    end = b"\n"

    def __init__(self) -> None:
        self.counts = Counts()
        self._held = bytearray()
        # The first frame may have begun before we listened; the rest of a number is a number too.
        self._skipping = True

    def reset(self) -> None:
        self._held.clear()
        self._skipping = True

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        self.counts.bytes += len(data)
        pieces = data.split(self.end)
        for piece in pieces[:-1]:
            yield from self._finish(piece)
        self._hold(pieces[-1])
        if len(self._held) > FRAME_MAX:
            self._overlong()
            yield None

    def _hold(self, piece: bytes) -> None:
        self._held += piece

    def _overlong(self) -> None:
        self.counts.overlong += 0 if self._skipping else 1
        self._held.clear()
        self._skipping = True

    def _finish(self, piece: bytes) -> Iterator[bytes | None]:
        raw = bytes(self._held) + piece
        self._held.clear()
        skipping, self._skipping = self._skipping, False
        if skipping:
            yield None
        elif len(raw) > FRAME_MAX:
            self.counts.overlong += 1
            yield None
        elif raw.strip(b"\r\n\0"):
            payload = self.payload(raw)
            if payload is not None:
                self.counts.frames += 1
                yield payload
            else:
                self.counts.bad += 1
                yield None

    def payload(self, raw: bytes) -> bytes | None:
        """What is in a frame, or None if it is damaged."""
        raise NotImplementedError


class Lines(_Delimited):
    """Lines of text; with a checksum they end with "*" and its hexadecimal digits.

    As in NMEA 0183, a "$" in front is left out of the checksum.
    """

    def __init__(self, kind: str = "none", start: int | None = None) -> None:
        super().__init__()
        self._sum, self._size = checksum(kind, start)

    def payload(self, raw: bytes) -> bytes | None:
        line = raw.rstrip(b"\r")
        if not self._size:
            return line
        body, star, digits = line.rpartition(b"*")
        body = body.removeprefix(b"$")
        if not star or len(digits) != 2 * self._size:
            return None
        try:
            said = int.from_bytes(bytes.fromhex(digits.decode("ascii")), "big")
        except ValueError:
            return None
        return body if said == self._sum(body) else None


class Cobs(_Delimited):
    """Packets in consistent overhead byte stuffing, which end with a zero byte.

    Cheshire and Baker, "Consistent overhead byte stuffing", IEEE/ACM Transactions on Networking
    7(2), 1999: each code byte n is followed by n - 1 others and, unless n is 255, stands for a zero
    after them.
    """

    end = b"\0"

    def __init__(self, kind: str = "none", start: int | None = None, order: str = "little") -> None:
        super().__init__()
        self._sum, self._size = checksum(kind, start)
        self._order = order

    def payload(self, raw: bytes) -> bytes | None:
        packet = uncobs(raw)
        if packet is None or len(packet) < self._size:
            return None
        cut = len(packet) - self._size
        body = packet[:cut]
        return body if _number(packet[cut:], self._order) == self._sum(body) else None


def uncobs(raw: bytes) -> bytes | None:
    """Undo the stuffing of what stands before the zero byte; None if it can't be right."""
    out, at = bytearray(), 0
    while at < len(raw):
        code = raw[at]
        if code == 0 or at + code > len(raw):
            return None
        out += raw[at + 1 : at + code]
        at += code
        if code < 255 and at < len(raw):
            out.append(0)
    return bytes(out)


def cobs(packet: bytes) -> bytes:
    """Stuff a packet, without the zero byte that ends it; the inverse of `uncobs`."""
    out = bytearray()
    blocks = packet.split(b"\0")
    for last, block in ((i == len(blocks) - 1, block) for i, block in enumerate(blocks)):
        while len(block) >= 254:
            out += b"\xff" + block[:254]
            block = block[254:]
            if not block and last:
                return bytes(out)
        out.append(len(block) + 1)
        out += block
    return bytes(out)


class Synced:
    """Sync bytes, a length (or a length that is known), a payload, a checksum.

    When a frame is wrong, the search goes on one byte after its beginning: what looked like sync
    bytes may have been in the middle of a good frame.
    """

    def __init__(self, line: SerialSection, fixed: int = 0) -> None:
        """`fixed`: the payload's bytes if no length is sent."""
        self.counts = Counts()
        self._sync = bytes.fromhex(line.sync)
        self._fixed, self._length, self._order = fixed, line.length_bytes, line.byte_order
        self._sum, self._size = checksum(line.checksum, line.crc_start)
        head = len(self._sync)
        self._from = {"payload": head + self._length, "length": head, "all": 0}[line.covers]
        self._held = bytearray()
        self._lost = False

    def reset(self) -> None:
        self._held.clear()
        self._lost = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        self.counts.bytes += len(data)
        for first in range(0, len(data), FRAME_MAX):
            self._held += data[first : first + FRAME_MAX]
            yield from self._frames()

    def _frames(self) -> Iterator[bytes | None]:
        held, at = self._held, 0
        while (begin := held.find(self._sync, at)) >= 0:
            self._lost |= begin > at
            at = begin
            head = at + len(self._sync) + self._length
            if head > len(held):
                break
            size = self._fixed
            if self._length:
                size = _number(bytes(held[head - self._length : head]), self._order)
            end = head + size + self._size
            if 0 < size <= FRAME_MAX and end > len(held):
                break
            body = bytes(held[head : head + size])
            covered = bytes(held[at + self._from : head + size])
            said = _number(bytes(held[head + size : end]), self._order)
            if not 0 < size <= FRAME_MAX or said != self._sum(covered):
                self.counts.bad += 1
                self._lost = True
                at += 1
                continue
            if self._lost:
                self._lost = False
                yield None
            self.counts.frames += 1
            yield body
            at = end
        else:
            # Nothing more begins in here, but for what may be the first bytes of a sync.
            keep = len(held) - len(self._sync) + 1
            self._lost |= keep > at
            at = max(at, keep)
        del held[:at]


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "little" else "big")


def deframer(line: SerialSection, fixed: int) -> Deframer:
    """The deframer that a configuration asks for; `fixed` is the layout's size in bytes."""
    match line.framing:
        case "lines":
            return Lines(line.checksum, line.crc_start)
        case "cobs":
            return Cobs(line.checksum, line.crc_start, line.byte_order)
    return Synced(line, 0 if line.length_bytes else fixed)

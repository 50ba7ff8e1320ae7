"""Frames on a serial line that a console may share. Pure.

A frame is printable text, `#Q`, base64 and a newline, so that nothing on the way takes a byte of it
for a command: to a shell it is a comment, and it has no control character that a terminal, a login
prompt or flow control would act on. The decoder needs no alignment: `#` is not of the base64
alphabet, so a mark is a mark wherever it stands, and whatever isn't of the alphabet ends a frame.
What is damaged is dropped by its CRC-32; sending it again is the link's business.
"""

import binascii
import struct
from base64 import b64decode, b64encode
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import Final

from qflare.faults import LocalFault

MARK: Final = b"#Q"
PAYLOAD_MAX: Final = 240  # bytes; a line of 348 characters, 30 ms at 115,200 baud
TEXT_KEPT: Final = 4096  # bytes of console text that are remembered

_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BBIH")  # version and direction, kind, link, sequence
_CRC: Final = struct.Struct(">I")
_BODY_MIN: Final = _HEAD.size + _CRC.size
_BASE64: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
_TEXT_MAX: Final = (PAYLOAD_MAX + _BODY_MIN + 2) // 3 * 4
FRAME_MAX: Final = len(MARK) + _TEXT_MAX + 1  # bytes of a line


class Kind(IntEnum):
    """What a frame is for."""

    OPEN = 1  # laptop: a new link, forget the old one
    OPENED = 2  # device: done
    MORE = 3  # a piece of a message, not the last
    LAST = 4  # the last piece of a message
    ACK = 5
    PING = 6
    PONG = 7
    RESET = 8  # device: I know no such link


_KINDS: Final = frozenset(int(kind) for kind in Kind)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `link` has 32 bits, `sequence` 16, the payload at most PAYLOAD_MAX bytes."""

    from_device: bool
    kind: Kind
    link: int
    sequence: int = 0
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    """The frame's line; LocalFault if the payload is too long."""
    if len(frame.payload) > PAYLOAD_MAX:
        raise LocalFault(f"a frame carries {PAYLOAD_MAX} bytes, not {len(frame.payload)}")
    first = _VERSION << 1 | frame.from_device
    body = _HEAD.pack(first, frame.kind, frame.link, frame.sequence) + frame.payload
    return MARK + b64encode(body + _CRC.pack(binascii.crc32(body))) + b"\n"


class Decoder:
    """Takes what the line brings, in pieces of any size; gives frames, remembers the rest.

    `noise` counts the bytes that belonged to no frame, `damaged` what began as one and wasn't.
    """

    def __init__(self) -> None:
        self.noise = 0
        self.damaged = 0
        self._buffer = bytearray()
        self._text: deque[int] = deque(maxlen=TEXT_KEPT)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`; never raises."""
        self._buffer += data
        found = []
        while (frame := self._next()) is not _NOTHING_YET:
            if isinstance(frame, Frame):
                found.append(frame)
        return found

    def text(self) -> bytes:
        """The last console text, without frames."""
        return bytes(self._text)

    def forget_text(self) -> None:
        """Begin to remember anew."""
        self._text.clear()

    def _next(self) -> "Frame | object | None":
        """The next frame, None for something that was dropped, _NOTHING_YET to wait for more."""
        at = self._buffer.find(MARK)
        if at < 0:
            self._drop(len(self._buffer) - self._buffer.endswith(MARK[:1]))
            return _NOTHING_YET
        self._drop(at)
        end = len(MARK)
        for byte in islice(self._buffer, end, len(MARK) + _TEXT_MAX + 1):
            if byte not in _BASE64:
                break
            end += 1
        else:
            if end <= len(MARK) + _TEXT_MAX:
                return _NOTHING_YET
            self.damaged += 1
            self._drop(len(MARK))
            return None
        frame = _parse(bytes(self._buffer[len(MARK) : end]))
        if frame is None:
            self.damaged += 1
            self._drop(len(MARK))
            return None
        del self._buffer[:end]
        if self._buffer[:1] == b"\n":
            del self._buffer[:1]
        return frame

    def _drop(self, count: int) -> None:
        self.noise += count
        self._text.extend(self._buffer[:count])
        del self._buffer[:count]


_NOTHING_YET: Final = object()


def _parse(text: bytes) -> Frame | None:
    """The frame that this base64 spells, if it is one in its one spelling."""
    try:
        raw = b64decode(text, validate=True)
    except binascii.Error:
        return None
    if not _BODY_MIN <= len(raw) <= PAYLOAD_MAX + _BODY_MIN or b64encode(raw) != text:
        return None
    body = raw[: -_CRC.size]
    (crc,) = _CRC.unpack_from(raw, len(body))
    first, kind, link, sequence = _HEAD.unpack_from(body)
    if crc != binascii.crc32(body) or first >> 1 != _VERSION or kind not in _KINDS:
        return None
    return Frame(bool(first & 1), Kind(kind), link, sequence, body[_HEAD.size :])

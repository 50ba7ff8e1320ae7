"""Messages over frames: once each, in order, or the link is lost. Pure, either end's.

Stop and wait: a piece is sent until it is acknowledged. A serial line doesn't reorder, so sixteen
bits of sequence and the link's number tell a repetition from the next piece. The laptop opens a
link under a random number; a device that was restarted knows it no more and says so, and the
laptop begins again. What was done before is both sides' to remember, not the link's.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from edge_runtime.provision.frames import FRAME_MAX, PAYLOAD_MAX, Decoder, Frame, Kind, encode
from qflare.faults import LocalFault

MESSAGE_MAX: Final = 128 * 1024  # bytes
_QUEUED_MAX: Final = 64  # messages that wait to be sent
_WRAP: Final = 0xFFFF
_OUT_MAX: Final = 64 * 1024  # bytes that wait to be written


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `patience` is how long the other end may be silent."""

    first: float = 0.4  # until a piece is sent again; then longer and longer
    longest: float = 2.0
    ping: float = 2.0  # the laptop asks whether anybody is there
    patience: float = 15.0

    @classmethod
    def at(cls, baud: int, patience: float = 15.0) -> "Times":
        """Times for a line of this speed (ten bits to a byte)."""
        return cls(first=0.3 + 2 * FRAME_MAX * 10 / baud, patience=patience)


@dataclass(frozen=True, slots=True)
class Opened:
    """A link is open; nothing of an older one counts."""


@dataclass(frozen=True, slots=True)
class Received:
    """A whole message."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The link is gone. `restarted`: the other end is there and has forgotten it."""

    restarted: bool


Event = Opened | Received | Lost


class Link:
    """One end. Feed it what comes, write what `take` gives, call `tick` when `due` says."""

    def __init__(self, *, from_device: bool, times: Times = Times()) -> None:
        self.decoder = Decoder()
        self.echoes = 0  # frames of our own that came back
        self.again = 0  # pieces that were sent again
        self._device = from_device
        self._times = times
        self._out = bytearray()
        self._number: int | None = None
        self._open = False
        self._clear(0.0)

    def _clear(self, now: float) -> None:
        self._waiting: deque[bytes] = deque()
        self._pieces: deque[Frame] = deque()
        self._flight: Frame | None = None
        self._sequence = 0
        self._expected = 0
        self._partial = bytearray()
        self._heard = now
        self._wait = self._times.first
        self._repeat_at = 0.0
        self._ping_at = now + self._times.ping

    @property
    def is_open(self) -> bool:
        return self._open

    @property
    def idle(self) -> bool:
        """Has all that was sent arrived?"""
        return self._flight is None and not self._pieces and not self._waiting

    def open(self, number: int, now: float) -> None:
        """Laptop: ask for a link under this number, 32 random bits."""
        self._number, self._open = number, False
        self._clear(now)
        self._flight = Frame(self._device, Kind.OPEN, number)
        self._launch(now)

    def close(self) -> None:
        """Forget the link; the other end is told when it asks."""
        self._number, self._open, self._flight = None, False, None

    def send(self, message: bytes) -> None:
        """Queue a message; LocalFault if it is too large or nobody takes them."""
        if len(message) > MESSAGE_MAX:
            raise LocalFault(f"a message has {MESSAGE_MAX} bytes at most, not {len(message)}")
        if len(self._waiting) >= _QUEUED_MAX:
            raise LocalFault("messages pile up on the serial line; it is too slow or cut")
        self._waiting.append(message)

    def feed(self, data: bytes, now: float) -> list[Event]:
        """What came over the line."""
        events: list[Event] = []
        for frame in self.decoder.feed(data):
            if frame.from_device == self._device:
                self.echoes += 1
            else:
                found = self._on_frame(frame, now)
                if Opened() in found:
                    events.clear()  # they are of an older link
                events += found
        return events

    def tick(self, now: float) -> list[Event]:
        """Send again, ask, or give up, as the time has come."""
        if self._number is None:
            return []
        if now - self._heard > self._times.patience:
            self.close()
            return [Lost(restarted=False)]
        if self._open and self._flight is None:
            self._next(now)
        if self._flight is not None and now >= self._repeat_at:
            self.again += 1
            self._wait = min(self._wait * 1.5, self._times.longest)
            self._launch(now)
        elif self._open and not self._device and now >= self._ping_at:
            self._ping_at = now + self._times.ping
            self._put(Kind.PING)
        return []

    def due(self) -> float | None:
        """When `tick` has something to do."""
        if self._number is None:
            return None
        times = [self._heard + self._times.patience]
        if self._flight is not None:
            times.append(self._repeat_at)
        if self._open and not self._device:
            times.append(self._ping_at)
        return min(times)

    def take(self, now: float) -> bytes:
        """What is to be written now."""
        if self._open and self._flight is None:
            self._next(now)
        out = bytes(self._out)
        self._out.clear()
        return out

    def _on_frame(self, frame: Frame, now: float) -> list[Event]:
        if self._device and frame.kind is Kind.OPEN:
            return self._on_open(frame.link, now)
        if frame.link != self._number:
            if self._device and frame.kind in (Kind.MORE, Kind.LAST, Kind.PING):
                self._put_frame(Frame(True, Kind.RESET, frame.link))
            return []
        self._heard = now
        match frame.kind:
            case Kind.OPENED if not self._device and not self._open:
                self._open = True
                self._flight = None
                return [Opened()]
            case Kind.RESET if not self._device:
                self.close()
                return [Lost(restarted=True)]
            case Kind.MORE | Kind.LAST if self._open:
                return self._on_piece(frame)
            case Kind.ACK if self._flight is not None and frame.sequence == self._flight.sequence:
                if self._open:
                    self._flight = None
                    self._wait = self._times.first
            case Kind.PING if self._device:
                self._put(Kind.PONG)
        return []

    def _on_open(self, number: int, now: float) -> list[Event]:
        events: list[Event] = []
        if number != self._number:
            self._number, self._open = number, True
            self._clear(now)
            events.append(Opened())
        self._heard = now
        self._put(Kind.OPENED)
        return events

    def _on_piece(self, frame: Frame) -> list[Event]:
        if frame.sequence == (self._expected - 1) & _WRAP:
            self._put(Kind.ACK, frame.sequence)  # the acknowledgement was lost
            return []
        if frame.sequence != self._expected:
            return []
        self._put(Kind.ACK, frame.sequence)
        self._expected = (self._expected + 1) & _WRAP
        self._partial += frame.payload
        if len(self._partial) > MESSAGE_MAX:
            self.close()
            return [Lost(restarted=False)]
        if frame.kind is Kind.MORE:
            return []
        message = bytes(self._partial)
        self._partial.clear()
        return [Received(message)]

    def _next(self, now: float) -> None:
        if not self._pieces and self._waiting:
            self._cut(self._waiting.popleft())
        if self._pieces:
            self._flight = self._pieces.popleft()
            self._launch(now)

    def _cut(self, message: bytes) -> None:
        number = self._number or 0
        starts = range(0, max(len(message), 1), PAYLOAD_MAX)
        for at in starts:
            kind = Kind.LAST if at == starts[-1] else Kind.MORE
            piece = message[at : at + PAYLOAD_MAX]
            self._pieces.append(Frame(self._device, kind, number, self._sequence, piece))
            self._sequence = (self._sequence + 1) & _WRAP

    def _launch(self, now: float) -> None:
        if self._flight is not None:
            self._repeat_at = now + self._wait
            self._put_frame(self._flight)

    def _put(self, kind: Kind, sequence: int = 0) -> None:
        self._put_frame(Frame(self._device, kind, self._number or 0, sequence))

    def _put_frame(self, frame: Frame) -> None:
        if len(self._out) < _OUT_MAX:  # a peer that only talks doesn't fill our memory
            self._out += encode(frame)

"""A sensor on a serial line, by pyserial: opened again whenever it goes away."""

import threading
import time
from typing import Final

import serial

from edge_runtime.sources.decoding import Structure, decoder
from edge_runtime.sources.drivers import Backoff, Intake, Status
from edge_runtime.sources.framing import deframer
from edge_runtime.sources.inbox import Inbox
from edge_runtime.sources.record import Chooser
from edge_runtime.sources.settings import DataSection

_READ_S: Final = 0.5  # how long a read waits, and how long a stop may take
_CHUNK: Final = 4096
_SUSPICIOUS: Final = 2000  # bytes without a frame: it isn't noise, it is the wrong setting
_PARITY: Final = {
    "none": serial.PARITY_NONE,
    "even": serial.PARITY_EVEN,
    "odd": serial.PARITY_ODD,
}


class SerialLine:
    """A `drivers.Driver`. `port` is a path, or a URL of pyserial such as socket://host:port."""

    def __init__(self, settings: DataSection) -> None:
        self._line = settings.serial
        decode = decoder(settings)
        fixed = decode.size if isinstance(decode, Structure) else 0
        self._deframer = deframer(settings.serial, fixed)
        self._intake = Intake(decode, Chooser(settings))
        self._opened = 0
        self._since = 0  # bytes since the last good frame
        self.status = Status()

    def run(self, inbox: Inbox, stop: threading.Event) -> None:
        backoff = Backoff(self._line.backoff_max_s)
        while not stop.is_set():
            try:
                with self._open() as port:
                    self._opened += 1
                    self._deframer.reset()
                    self._read(port, inbox, stop, backoff)
            except (OSError, ValueError) as error:  # SerialException is an OSError
                self._say(f"{self._line.port}: {_reason(error)}", ok=False)
                inbox.gap()
                backoff.wait(stop)

    def _open(self) -> serial.Serial:
        line = self._line
        port = serial.serial_for_url(
            line.port,
            baudrate=line.baud,
            parity=_PARITY[line.parity],
            stopbits=line.stop_bits,
            rtscts=line.flow == "rtscts",
            xonxoff=line.flow == "xonxoff",
            timeout=_READ_S,
            do_not_open=True,
        )
        if "://" not in line.port:
            port.exclusive = True  # two readers would each get half of every frame
        port.open()
        self._say("open, nothing came yet", ok=True)
        return port

    def _read(
        self, port: serial.Serial, inbox: Inbox, stop: threading.Event, backoff: Backoff
    ) -> None:
        """Read until the line fails (OSError), falls silent, or `stop` is set."""
        heard = time.monotonic()
        while not stop.is_set():
            data = port.read(min(max(1, port.in_waiting), _CHUNK))
            now = time.monotonic()
            if data:
                heard = now
                self._take(data, inbox, backoff)
            elif now - heard > self._line.silent_s:
                raise OSError(f"silent for {self._line.silent_s:g} s; is the sensor powered?")

    def _take(self, data: bytes, inbox: Inbox, backoff: Backoff) -> None:
        self._since += len(data)
        for payload in self._deframer.feed(data):
            if payload is None:
                inbox.gap()
            elif self._intake.take(payload, inbox):
                self._since = 0
                backoff.reset()
        if self._since < _SUSPICIOUS:
            self._say("reading", ok=True)
        else:
            last = f" (the last: {self._intake.last_fault})" if self._intake.last_fault else ""
            self._say(
                f"{self._since} bytes came and no sample was among them{last}; check baud, "
                "framing, checksum and format",
                ok=False,
            )

    def _say(self, state: str, ok: bool) -> None:
        counts = self._deframer.counts
        self.status = Status(
            state,
            ok,
            {
                "opened": self._opened,
                "bytes": counts.bytes,
                "frames": counts.frames,
                "bad_frames": counts.bad,
                "overlong_frames": counts.overlong,
                "unreadable": self._intake.unreadable,
            },
        )


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    match number:
        case 2:
            return "no such port; is the cable plugged in? ls -l /dev/serial/by-id"
        case 13:
            return "no permission; add the user to the group dialout"
        case 16 | 11:
            return "in use by another program; stop it (often a console: serial-getty)"
    return str(error)

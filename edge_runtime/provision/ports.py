"""Finding and opening the laptop's serial port. I/O."""

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import serial
from serial.tools import list_ports

from edge_runtime.provision.problems import Code, Problem

UDEV_NAMES: Final = Path("/dev/qflare")  # links that firmware_config/udev makes
# USB ids of adapters and boards: FTDI, Silicon Labs, QinHeng, Prolific, Raspberry Pi (Debug Probe,
# USB gadget), NVIDIA (Jetson's device mode), Linux's own gadgets.
VENDORS: Final = {
    0x0403: "FTDI",
    0x10C4: "CP210x",
    0x1A86: "CH340",
    0x067B: "PL2303",
    0x2E8A: "Raspberry Pi",
    0x0955: "NVIDIA Jetson",
    0x1D6B: "USB gadget",
    0x0525: "USB gadget",
}
BAUDS: Final = (115_200, 9_600, 921_600, 57_600, 38_400)


@dataclass(frozen=True, slots=True)
class Port:
    """A serial port, and what is known of the adapter."""

    path: str
    what: str


class Line(Protocol):
    """An open port."""

    path: str

    def set_baud(self, baud: int) -> None: ...
    def read(self, seconds: float) -> bytes:
        """What has come, waiting at most so long; Problem if the port is gone."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


def candidates() -> list[Port]:
    """The ports that may lead to a board: udev's names first, then known adapters."""
    found = [Port(str(link), "udev") for link in sorted(UDEV_NAMES.glob("*"))]
    known = {os.path.realpath(port.path) for port in found}
    return found + [port for port in usb_ports(list_ports.comports()) if port.path not in known]


def usb_ports(ports: Iterable[object]) -> list[Port]:
    """Those of pyserial's list that are adapters on USB, the known makes first."""
    usb = []
    for port in ports:
        vendor, path = getattr(port, "vid", None), str(getattr(port, "device", ""))
        if vendor is not None and path:
            usb.append((vendor not in VENDORS, path, VENDORS.get(vendor, "USB adapter")))
    return [Port(path, what) for _, path, what in sorted(usb)]


def choose(given: str | None, found: list[Port]) -> str:
    """The port to use; Problem if there is none or more than one."""
    if given is not None:
        return given
    if not found:
        raise Problem(Code.NO_PORT)
    if len(found) > 1:
        raise Problem(Code.SEVERAL_PORTS, ", ".join(f"{p.path} ({p.what})" for p in found))
    return found[0].path


class SerialLine:
    """A port opened by pyserial, for us alone."""

    def __init__(self, path: str, baud: int) -> None:
        self.path = path
        try:
            if not stat.S_ISCHR(Path(path).stat().st_mode):
                raise Problem(Code.NO_SERIAL_PORT, path)
            self._port = serial.Serial(path, baud, timeout=0, write_timeout=10, exclusive=True)
        except (OSError, serial.SerialException) as error:
            raise _explained(error, path) from None
        except ValueError:
            raise Problem(Code.SPEED, f"{baud} baud isn't possible over {path}") from None

    def set_baud(self, baud: int) -> None:
        """Change the speed; Problem if the port is gone or hasn't that speed."""
        try:
            self._port.baudrate = baud
            self._port.reset_input_buffer()
        except ValueError:
            raise Problem(Code.SPEED, f"{baud} baud isn't possible over {self.path}") from None
        except (OSError, serial.SerialException) as error:
            raise _explained(error, self.path) from None

    def read(self, seconds: float) -> bytes:
        """What has come, waiting at most so long for the first byte."""
        try:
            self._port.timeout = seconds
            first: bytes = self._port.read(1)
            self._port.timeout = 0
            return first + bytes(self._port.read(4096)) if first else b""
        except (OSError, TypeError, serial.SerialException) as error:
            raise _explained(error, self.path) from None

    def write(self, data: bytes) -> None:
        """Send it all."""
        try:
            self._port.write(data)
        except (OSError, serial.SerialException) as error:
            raise _explained(error, self.path) from None

    def close(self) -> None:
        """Let the port go."""
        self._port.close()


def _group(path: str) -> str:
    """The group that may open the port: dialout, or uucp on some systems."""
    try:
        return Path(path).group()
    except (OSError, KeyError):
        return "dialout"


def _explained(error: Exception, path: str) -> Problem:
    number = getattr(error, "errno", None)
    if number == errno.EACCES or "Permission denied" in str(error):
        return Problem(Code.NO_PERMISSION, path, _group(path))
    if number in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in str(error):
        return Problem(Code.PORT_BUSY, path)
    return Problem(Code.PORT_GONE, path)

"""Which of the board's terminals a technician may be at the other end of.

A UART is told by its address, as the board's profile gives it: serial0 and the numbers of ttyAMA
change with settings. Beside those there is the USB gadget, where a Pi is the USB device itself.
"""

from pathlib import Path

from qflare.host import boards

_GADGET = "ttyGS0"


def serial_lines(root: Path) -> list[Path]:
    """Terminals in the order of the profile; empty where none of them is there."""
    board = boards.detect(root)
    found = []
    for uart in board.uart if board else ():
        for entry in sorted((root / "sys/class/tty").glob("tty*")):
            device = entry / "device"
            if device.exists() and f"/{uart.address}.serial" in f"{device.resolve()}":
                found.append(root / "dev" / entry.name)
    if (root / "sys/class/tty" / _GADGET).exists():
        found.append(root / "dev" / _GADGET)
    return list(dict.fromkeys(found))

"""Which board a root directory belongs to, and for which processor its programs are.

`root` is "/" on the board itself, or where its SD card is mounted: such a card has no /proc, and
the same card starts several boards, so only the running board can be recognised by its model.
"""

import struct
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault
from qflare.host.boards.profile import Board, every, load

GENERIC: Final = "generic-arm64"
_CEILING: Final = 16 * 1024
_TREES: Final = ("sys/firmware/devicetree/base", "proc/device-tree")
_PROGRAMS: Final = ("usr/bin/env", "usr/bin/true", "bin/busybox", "usr/bin/busybox", "bin/sh")
_MACHINES: Final = {183: "aarch64", 40: "arm", 62: "x86_64"}  # e_machine, elf(5)


def detect(root: Path = Path("/")) -> Board | None:
    """The board of the system under `root`; None where it is neither known nor 64-bit ARM."""
    for entry in compatible(root):
        for board in every():
            if any(fnmatchcase(entry, pattern) for pattern in board.recognise.compatible):
                return board
    return load(GENERIC) if userland(root) == "aarch64" else None


def compatible(root: Path = Path("/")) -> tuple[str, ...]:
    """The device tree's `compatible`, the most specific first; empty where there is none."""
    return tuple(word for word in _property(root, "compatible").split("\0") if word)


def model(root: Path = Path("/")) -> str:
    """What the board calls itself, or an empty text."""
    return _property(root, "model").strip("\0 \n")


def serial_number(root: Path = Path("/")) -> str:
    """The board's serial number, or an empty text."""
    return _property(root, "serial-number").strip("\0 \n")


def userland(root: Path = Path("/")) -> str | None:
    """For which processor the programs are: "aarch64", "arm", "x86_64", … or None if unknown.

    It is read from a program's ELF header, as the kernel may be a 64-bit one below 32-bit
    programs.
    """
    for name in _PROGRAMS:
        head = _head(root / name)
        if len(head) == 20 and head[:4] == b"\x7fELF" and head[5] in (1, 2):
            (machine,) = struct.unpack("<H" if head[5] == 1 else ">H", head[18:20])
            return _MACHINES.get(machine, f"ELF machine {machine}")
    return None


def _property(root: Path, name: str) -> str:
    for tree in _TREES:
        try:
            with (root / tree / name).open("rb") as file:
                return file.read(_CEILING).decode("ascii", "replace")
        except OSError:
            continue
    return ""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(20)
    except OSError:
        return b""


def choose(name: str | None, root: Path = Path("/")) -> Board:
    """The board called `name`, or the one that is found; LocalFault if neither is known."""
    if name is not None:
        return load(name)
    board = detect(root)
    if board is None:
        told = model(root) or "this machine"
        raise LocalFault(
            f"{told} is no board that we know, and no 64-bit ARM system; say which one is meant "
            "(qflare board show lists them)"
        )
    return board

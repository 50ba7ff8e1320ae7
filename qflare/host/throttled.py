"""Where a Raspberry Pi's kernel says what holds the board back: for gates and boards, and light."""

from pathlib import Path


def throttled_files(root: Path) -> list[Path]:
    """Where Raspberry Pi's kernels have the firmware's word (raspberrypi/linux#2397).

    The node above it is called soc, or soc@… with its address. At the first reading after a start
    the kernel's log gets a warning that the file is deprecated; nothing else there has the bits.
    """
    return sorted((root / "sys/devices/platform").glob("soc*/soc*:firmware/get_throttled"))

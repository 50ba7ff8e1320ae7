"""How much memory this process takes."""

from pathlib import Path


def peak_rss_kb() -> int:
    """The most memory that this process ever had resident, KiB; 0 where there is no /proc.

    Not getrusage: its maximum starts with that of the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0

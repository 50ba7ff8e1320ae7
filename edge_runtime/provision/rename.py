"""Setting a directory aside, whole, so that nothing of it is lost or mixed with what comes."""

import time
from pathlib import Path

from qflare.host.files import sync_dir


def move_aside(directory: Path) -> Path | None:
    """Rename it to <name>.before-<time> and make it anew, empty; None if it wasn't there."""
    if not directory.is_dir() or not any(directory.iterdir()):
        return None
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    aside = directory.with_name(f"{directory.name}.before-{stamp}")
    count = 0
    while aside.exists():
        count += 1
        aside = directory.with_name(f"{directory.name}.before-{stamp}-{count}")
    mode = directory.stat().st_mode & 0o777
    directory.rename(aside)
    directory.mkdir(mode=mode)
    sync_dir(directory.parent)
    return aside

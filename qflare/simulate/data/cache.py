"""Where prepared data waits for the next run."""

import os
from contextlib import suppress
from pathlib import Path

from qflare.faults import LocalFault


def cache_dir(instead: Path) -> Path:
    """A folder in the person's cache, or `instead`: a home that can't be written is no error."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "") + "/.cache"
    for folder in (Path(base) / "qflare", instead):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise LocalFault(f"cannot write in {instead.parent}; give another --workdir")

"""Where a device's certificate is: the one of its enrolment, or a renewed one.

The former may lie where the daemon cannot write (/etc). A renewed one is kept in the state
directory, under the name of the one that it renews: so it is forgotten with it, and whoever enrols
the device again doesn't find an older certificate in use.
"""

import hashlib
from pathlib import Path
from typing import Final

from qflare.host.files import read_bounded, write_atomic
from qflare.names import Digest

_HASH: Final = 32
_FILE_MAX: Final = 16 * 1024


def keep(state_dir: Path, granted: bytes, renewed: bytes) -> None:
    """Make a renewed certificate durable, and remove those of earlier enrolments."""
    path = _file(state_dir, granted)
    write_atomic(path, hashlib.sha256(renewed).digest() + renewed)
    for other in state_dir.glob("certificate-*.der"):
        if other != path:
            other.unlink(missing_ok=True)


def newest(state_dir: Path, granted: bytes) -> bytes:
    """The last renewal of the granted certificate, or that one itself.

    A damaged file is passed over: the coordinator renews again whatever is shown to it.
    """
    try:
        data = read_bounded(_file(state_dir, granted), _FILE_MAX)
    except OSError:
        return granted
    renewed = data[_HASH:]
    return renewed if hashlib.sha256(renewed).digest() == data[:_HASH] else granted


def _file(state_dir: Path, granted: bytes) -> Path:
    return state_dir / f"certificate-{Digest.of(granted).short}.der"

"""TLS to the broker, also on a board that doesn't know the time yet.

A Raspberry Pi has no clock battery: until its first NTP answer it lives in the past, where every
certificate is "not yet valid", and the network that would give it the time may need the very
connection that fails. So while the clock stands before `FLOOR`, which it can't be right about,
certificates are checked for all but their dates. What this gives away is little: TLS hides who
talks when; what is said is sealed and signed above it.
"""

import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault

FLOOR: Final = datetime(2026, 11, 1, tzinfo=UTC).timestamp()  # before this release was made
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME; the ssl module has no name for it


def clock_is_set(clock: Callable[[], float] = time.time) -> bool:
    """Can the wall clock be right?"""
    return clock() >= FLOOR


def client_context(ca_file: Path | None, *, check_dates: bool = True) -> ssl.SSLContext:
    """TLS 1.3 with the host's name checked, against `ca_file` or else the system's CAs.

    Raises LocalFault for a file that has no certificates.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LocalFault(
            f"{ca_file}: no CA certificates to check the broker by: {reason}; "
            "put the broker's CA there, in PEM"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if not check_dates:
        context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    return context

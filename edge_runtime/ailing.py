"""A device whose disk refuses: it says so to whoever looks, and begins anew once it can. I/O.

What is on the disk is right, and what was in memory may be ahead of it. So nothing is decided and
nothing is answered until everything was read again, as after a restart; meanwhile applications go
on using the active model, which another process serves.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_runtime.storage.reserve import MARGIN
from edge_runtime.store import StoreFault
from qflare.host.link import Link

LOOK_S: Final = 1.0
WAIT_LAST_S: Final = 60.0  # between two attempts that failed
PARTING_S: Final = 2.0


async def until_begun(
    link: Link, directory: Path, begin: Callable[[], None], look: Callable[[], bool]
) -> None:
    """Keep up the link, which says what is wrong, until `begin` raises no StoreFault any more.

    `look` is called every second; it ends the waiting by True.
    """
    connection = asyncio.create_task(link.run(lambda _event: None))
    wait, waited = LOOK_S, 0.0
    try:
        while not look():
            await asyncio.sleep(LOOK_S)
            if connection.done():
                connection.result()
            waited += LOOK_S
            if waited < wait or not writable(directory):
                continue
            wait, waited = min(2 * wait, WAIT_LAST_S), 0.0
            with suppress(StoreFault):
                begin()
                return
    finally:
        link.close()
        await asyncio.wait([connection], timeout=PARTING_S)
        connection.cancel()
        await asyncio.gather(connection, return_exceptions=True)


def writable(directory: Path) -> bool:
    """Would an attempt be worth it? Nothing is written to find out."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    roomy = found.f_bavail * found.f_frsize >= MARGIN
    return roomy and not found.f_flag & os.ST_RDONLY and os.access(directory, os.W_OK)

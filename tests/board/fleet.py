"""A fleet on this machine that an emulated board can join: the real broker and daemons."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from qflare.host.broker import BrokerKind
from tests.joined_fleet import Fleet, joinable

HOST = "10.0.2.2"  # where QEMU's user network has this machine's loopback
_RUN = "[run]\nrounds = 0\ncohort = 0\nexpect_devices = 1\nwait_s = 60\npause_s = 2\n"


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[Fleet]:
    """Broker, enclave, coordinator, and one device of this machine, which trains alone if need be.

    Devices are told of the broker twice: as this machine sees it, and as a board does.
    """
    async with joinable(home, BrokerKind.MOSQUITTO, 2, _for_a_board) as fleet:
        tickets = str(home / "tickets")
        (made,) = await asyncio.to_thread(fleet.operator, "token", "new", "--out", tickets)
        ticket = Path(made["file"])
        await fleet.join("local", ticket, "generic-arm64", "local", fleet.shares[0])
        yield fleet


def _for_a_board(text: str) -> str:
    text = re.sub(r"\[run\]\n(\w+ = .*\n)+", _RUN, text)
    return re.sub(
        r'^brokers = \["(mqtt://)127\.0\.0\.1(:\d+)"\]',
        rf'brokers = ["\g<1>127.0.0.1\g<2>", "\g<1>{HOST}\g<2>"]',
        text,
        flags=re.MULTILINE,
    )

"""A fleet on this machine that an emulated board can join: the real broker and daemons."""

import asyncio
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from coordinator.config import CoordinatorConfig
from coordinator.export import export
from qflare.envelope import peek_signed
from qflare.host.broker import BrokerKind
from qflare.host.config import load
from qflare.messages import RoundReceipt
from tests.joined_fleet import Fleet, joinable

HOST = "10.0.2.2"  # where QEMU's user network has this machine's loopback
_RUN = "[run]\nrounds = 0\ncohort = 0\nexpect_devices = 1\nwait_s = 60\npause_s = 5\n"
_START_S = 120.0


@contextmanager
def running(home: Path) -> Iterator[Fleet]:
    """Broker, enclave, coordinator, and one device of this machine, which trains alone if need be.

    All of it runs beside the caller, who waits for a board: in a thread with a loop of its own.
    """
    ready: Future[Fleet] = Future()
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def live() -> None:
        async with _joined(home) as fleet:
            ready.set_result(fleet)
            await over.wait()

    def body() -> None:
        try:
            loop.run_until_complete(live())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=body, name="fleet", daemon=True)
    thread.start()
    try:
        yield ready.result(_START_S)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(60)
        if not thread.is_alive():
            loop.close()


@asynccontextmanager
async def _joined(home: Path) -> AsyncIterator[Fleet]:
    """Devices are told of the broker twice: as this machine sees it, and as a board does."""
    async with joinable(home, BrokerKind.MOSQUITTO, 2, _for_a_board) as fleet:
        ticket = await asyncio.to_thread(new_ticket, fleet, home / "tickets")
        await fleet.join("local", ticket, "generic-arm64", "local", fleet.shares[0])
        yield fleet


def new_ticket(fleet: Fleet, folder: Path) -> Path:
    """The file of a ticket that was made just now."""
    (made,) = fleet.operator("token", "new", "--out", str(folder))
    return Path(made["file"])


def _for_a_board(text: str) -> str:
    text = re.sub(r"\[run\]\n(\w+ = .*\n)+", _RUN, text)
    # A board that is held lets a round last so long.
    text = re.sub(r"^deadline_s = \d+$", "deadline_s = 60", text, flags=re.MULTILINE)
    return re.sub(
        r'^((?:ticket_)?brokers) = \["(mqtt://)127\.0\.0\.1(:\d+)"\]',
        rf'\g<1> = ["\g<2>127.0.0.1\g<3>", "\g<2>{HOST}\g<3>"]',
        text,
        flags=re.MULTILINE,
    )


def rounds(fleet: Fleet) -> list[dict[str, Any]]:
    """What the coordinator remembers of its rounds; read here, as it is asked for all the time."""
    config = load(CoordinatorConfig, "coordinator", fleet.config, {}).value
    found: list[dict[str, Any]] = export(config)["rounds"]
    return found


def verify_counted_once(fleet: Fleet) -> int:
    """No device's update stands twice in a round, nor in what the enclave signed; how many did."""
    (database,) = fleet.home.glob("**/coordinator.db")
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        admitted = connection.execute(
            "SELECT round, device FROM updates WHERE status = 'admitted'"
        ).fetchall()
        receipts = dict(
            connection.execute("SELECT number, receipt FROM rounds WHERE receipt IS NOT NULL")
        )
    twice = [pair for pair, count in Counter(admitted).items() if count > 1]
    assert not twice, f"counted more than once: {twice}"
    by_round = Counter(number for number, _ in admitted)
    for number, receipt in receipts.items():
        said = peek_signed(RoundReceipt, receipt).admitted
        assert said == by_round[number], f"round {number}: {said} signed, {by_round[number]} known"
    return len(admitted)

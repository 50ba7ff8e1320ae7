"""Knocking at a broker that somebody else runs, before anything depends on it."""

import asyncio
from contextlib import suppress
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.link import Connected, Disconnected, Event, Link, LinkConfig

WITHIN_S = 5.0


async def knock(url: str, username: str, password_file: Path, within_s: float = WITHIN_S) -> None:
    """Return once the broker at `url` has let us in.

    Raises LocalFault if it refuses or doesn't answer in time: the daemons would go on knocking
    for ever, and nobody would know why nothing happens.
    """
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    last = "no answer"

    def on_event(event: Event) -> None:
        nonlocal last
        if isinstance(event, Disconnected):
            last = event.reason
        let_in = isinstance(event, Connected)
        refused = isinstance(event, Disconnected) and event.refused
        if (let_in or refused) and not answer.done():
            answer.set_result("" if let_in else last)

    link = Link(LinkConfig(url, username, password_file=password_file), subscriptions=())
    running = asyncio.create_task(link.run(on_event))
    try:
        refusal = await asyncio.wait_for(asyncio.shield(answer), within_s)
    except TimeoutError:
        raise LocalFault(f"no broker answered at {url} within {within_s:g} s: {last}") from None
    finally:
        link.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(running, 1)
    if refusal:
        raise LocalFault(f"{url}: {refusal}; a simulation needs a broker that lets anybody in")

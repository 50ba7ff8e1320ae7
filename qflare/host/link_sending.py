"""What a link sends: queued up to a limit, and a window of it on its way without a PUBACK."""

import asyncio
from contextlib import suppress

from qflare.host.link_client import Client, SessionEnded
from qflare.host.link_types import Counters, LinkConfig, Publication


class Sending:
    """A queue that is emptied while there is a session, and forgotten at its end."""

    def __init__(self, config: LinkConfig, counters: Counters) -> None:
        self._config, self._counters = config, counters
        self._queue: asyncio.Queue[Publication] = asyncio.Queue()
        self._bytes = 0
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def has_room(self, publication: Publication) -> bool:
        """May this one be added?"""
        size = self._bytes + len(publication.payload)
        return (
            self._queue.qsize() < self._config.queue_messages and size <= self._config.queue_bytes
        )

    def add(self, publication: Publication) -> None:
        """Queue it, room or not."""
        self._queue.put_nowait(publication)
        self._bytes += len(publication.payload)
        self._outstanding += 1
        self._idle.clear()

    async def drain(self, within_s: float) -> bool:
        """Wait until all that was added has its PUBACK, or is forgotten; False when it's late."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), within_s)
        return self._idle.is_set()

    def forget(self) -> None:
        """The session is over."""
        self._counters.lost_out += self._outstanding
        self._queue = asyncio.Queue()
        self._bytes = self._outstanding = 0
        self._idle.set()

    async def run(self, client: Client) -> None:
        """Send until cancelled; raise SessionEnded when that fails.

        A task of its own: a PUBACK comes behind whatever else is inbound, and whoever waited for
        it in the receiving loop would wait for himself.
        """
        config = self._config
        window = asyncio.Semaphore(min(config.window, client.broker_window or config.window))
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        flights: set[asyncio.Task[None]] = set()

        async def fly(publication: Publication) -> None:
            try:
                await client.send(publication, config.ack_within_s)
                self._landed(publication)
            except SessionEnded as end:
                if not failed.done():
                    failed.set_exception(end)
            finally:
                window.release()

        async def launch() -> None:
            while True:
                publication = await self._queue.get()
                await window.acquire()
                flight = asyncio.create_task(fly(publication))
                flights.add(flight)
                flight.add_done_callback(flights.discard)

        launcher = asyncio.create_task(launch())
        try:
            await failed
        finally:
            launcher.cancel()
            for flight in flights:
                flight.cancel()
            await asyncio.gather(launcher, *flights, return_exceptions=True)

    def _landed(self, publication: Publication) -> None:
        self._counters.messages_out += 1
        self._counters.bytes_out += len(publication.payload)
        self._bytes -= len(publication.payload)
        self._outstanding -= 1
        if self._outstanding == 0:
            self._idle.set()

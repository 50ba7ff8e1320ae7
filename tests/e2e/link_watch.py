"""A link that runs in a test, with its events collected."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from qflare.host.link import Connected, Disconnected, Event, Link, LinkConfig, Message, Publication

E = TypeVar("E", Connected, Disconnected, Message)


class Running:
    """A link with its events collected, and ways to wait for them."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def messages(self) -> list[tuple[str, bytes]]:
        return [(e.topic, e.payload) for e in self.of(Message)]

    async def until(self, kind: type[E], count: int = 1) -> E:
        await self.until_true(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    async def until_message(self, payload: bytes, count: int = 1) -> None:
        await self.until_true(lambda: sum(p == payload for _, p in self.messages()) >= count)

    async def until_true(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not condition():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running(
    config: LinkConfig,
    subscriptions: Sequence[str] = (),
    will: Publication | None = None,
    birth: Sequence[Publication] = (),
) -> AsyncIterator[Running]:
    """A link while it runs; it says goodbye in the end."""
    link = Link(config, subscriptions=subscriptions, will=will, birth=birth)
    held = Running(link)
    task = asyncio.create_task(link.run(held.on_event))
    try:
        yield held
    finally:
        link.close()
        await asyncio.wait_for(task, 20)


@asynccontextmanager
async def dying(
    config: LinkConfig, subscriptions: Sequence[str] = (), will: Publication | None = None
) -> AsyncIterator[Running]:
    """A link whose process dies in the end, without a goodbye."""
    link = Link(config, subscriptions=subscriptions, will=will)
    held = Running(link)
    task = asyncio.create_task(link.run(held.on_event))
    try:
        yield held
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

"""A network between a link and its broker that a test can spoil: it forwards TCP on one address."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Relay:
    """Forwards, until it is told to lose bytes without a word, as a dead path or a NAT does."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.silent = False  # lose all, and leave connections open
        self.quota: int | None = None  # bytes until it turns silent
        self.forget_after_s: float | None = None  # of idleness; a forgotten connection stays open
        self.port = 0
        self.connections = 0
        self.forgotten = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        self._writers.append(far_writer)
        flow = Flow(asyncio.get_running_loop().time())
        await asyncio.gather(
            self._forward(reader, far_writer, flow), self._forward(far_reader, writer, flow)
        )

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, flow: "Flow"
    ) -> None:
        now = asyncio.get_running_loop().time
        with suppress(OSError):
            while data := await source.read(65536):
                idle, flow.used = now() - flow.used, now()
                if self.forget_after_s is not None and idle > self.forget_after_s:
                    self.forgotten += not flow.lost
                    flow.lost = True
                if self.quota is not None:
                    self.quota -= len(data)
                    self.silent = self.silent or self.quota < 0
                flow.lost = flow.lost or self.silent
                if not flow.lost:
                    sink.write(data)
                    await sink.drain()
        if not flow.lost:  # of what is lost the other side isn't told
            sink.close()

    def cut(self) -> None:
        """End all connections, at both ends."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()


class Flow:
    """One connection's state in the network."""

    def __init__(self, now: float) -> None:
        self.used = now
        self.lost = False


@asynccontextmanager
async def relay_to(url: str) -> AsyncIterator[Relay]:
    """A relay to the broker at this `mqtt://host:port`; `relay.port` is where it listens."""
    host, _, port = url.removeprefix("mqtt://").rpartition(":")
    relay = Relay(host, int(port))
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        relay.cut()

"""A TCP proxy that counts: what a device says and hears, byte by byte."""

import asyncio
import time
from contextlib import suppress


class Proxy:
    """Passes connections on to a server; `up` and `down` are bytes from and to the device."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._server: asyncio.Server | None = None
        self.up = self.down = 0
        self.answered: float | None = None  # by time.monotonic: the server's first word

    async def start(self) -> int:
        """The port on 127.0.0.1 that a device connects to."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        pumps = [
            asyncio.create_task(self._pump(reader, ours, up=True)),
            asyncio.create_task(self._pump(theirs, writer, up=False)),
        ]
        with suppress(asyncio.CancelledError):  # when the program ends
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        ours.close()
        writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                    self.answered = self.answered or time.monotonic()
                writer.write(data)
                await writer.drain()

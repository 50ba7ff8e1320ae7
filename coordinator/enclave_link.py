"""The Unix socket to the enclave: requests go out at once, replies come back in order."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from coordinator.events import EnclaveRequest
from qflare.enclave_wire import FRAME_MAX
from qflare.host.logs import get_logger

FIRST_DELAY_S = 0.1
LAST_DELAY_S = 5.0
_log = get_logger("enclave_link")


class EnclaveLink:
    """One connection to the enclave, renewed for as long as `run` runs."""

    def __init__(
        self,
        path: Path,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_reply: Callable[[EnclaveRequest, bytes, float], Awaitable[None]],
    ) -> None:
        self._path = path
        self._on_up, self._on_down, self._on_reply = on_up, on_down, on_reply
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: deque[tuple[EnclaveRequest, float]] = deque()
        self._last_reply = 0.0

    def send(self, request: EnclaveRequest, frame: bytes) -> None:
        """Send a request; without a connection it is dropped, as it would be by losing one."""
        if self._writer is None:
            return
        self._waiting.append((request, asyncio.get_running_loop().time()))
        # Not joined: a model is not copied for four bytes.
        self._writer.write(len(frame).to_bytes(4, "big"))
        self._writer.write(frame)

    async def run(self) -> None:
        """Stay connected until cancelled."""
        delay = FIRST_DELAY_S
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(str(self._path))
            except OSError as error:
                _log.debug("no enclave", path=self._path, error=error)
                await asyncio.sleep(random.uniform(delay / 2, delay))  # noqa: S311 - jitter
                delay = min(LAST_DELAY_S, delay * 2)
                continue
            delay = FIRST_DELAY_S
            _log.info("enclave connected")
            self._on_up()
            try:
                await self._read(reader)
            except (OSError, EOFError, ValueError) as error:
                _log.warning("enclave lost", error=error)
            finally:
                self._waiting.clear()
                writer, self._writer = self._writer, None
                if writer:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()
                self._on_down()
            await asyncio.sleep(FIRST_DELAY_S)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            if size > FRAME_MAX:
                raise ValueError(f"a frame of {size} bytes")
            frame = await reader.readexactly(size)
            if not self._waiting:
                raise ValueError("a reply to nothing")
            request, sent = self._waiting.popleft()
            now = loop.time()
            # Behind others in the pipe, its work began when theirs ended.
            seconds = now - max(sent, self._last_reply)
            self._last_reply = now
            await self._on_reply(request, frame, seconds)

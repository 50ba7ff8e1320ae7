"""Which model answers: follows the stable path, and swaps without anybody having to wait."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from edge_runtime.serving.engine import Engine, open_engine
from qflare.faults import LocalFault
from qflare.host.logs import get_logger

RETRY_S: Final = 5.0  # after a model that couldn't be opened


class Models:
    """The engine over the active model. While the next one is opened, this one answers."""

    def __init__(self, link: Path, threads: int) -> None:
        self._link, self._threads = link, threads
        self._log = get_logger("serving")
        self.engine: Engine | None = None
        self.trouble = ""  # why the model behind the link isn't the one that answers
        self._target: str | None = None  # what the link led to when it was last followed
        self._retry_at = 0.0
        self._opening: asyncio.Task[None] | None = None

    async def current(self) -> Engine:
        """The engine for a request that has come in; LocalFault if there is no model yet."""
        self.look()
        if self.engine is None and self._opening is not None:
            await asyncio.shield(self._opening)
        if self.engine is None:
            raise LocalFault(
                self.trouble or "there is no model yet; wait until a model was accepted here"
            )
        return self.engine

    def look(self) -> None:
        """Open the model that the link leads to, if it is another one; returns at once."""
        if self._opening is not None and not self._opening.done():
            return
        target = self._linked()
        if target == self._target and (not self.trouble or time.monotonic() < self._retry_at):
            return
        self._target = target
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def close(self) -> None:
        """Wait for what is going on."""
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)

    async def _open(self) -> None:
        try:
            engine = await asyncio.to_thread(open_engine, self._link, self._threads)
        except (LocalFault, MemoryError) as fault:
            self.trouble = str(fault) or "not enough memory to open the model"
            self._retry_at = time.monotonic() + RETRY_S
            level = self._log.error if self._target else self._log.info
            level("no model" if self.engine is None else "model kept", reason=self.trouble)
            return
        self.trouble = ""
        self.engine = engine
        self._log.info(
            "model answers",
            model=engine.slot.model.short,
            name=engine.manifest.name,
            batch_ms=round(1000 * engine.seconds, 3),
        )

    def _linked(self) -> str | None:
        try:
            return os.readlink(self._link)  # noqa: PTH115  # for each request; a Path costs more
        except OSError:
            return None

"""Requests that are there at the same time share a run of the interpreter.

A request belongs to the model that was active when it came in, to its end. Long requests take
turns with short ones: of each, a batch at a time. What waits is bounded by who submits it: each
connection has one request at a time, and there are only so many.
"""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_runtime.serving.engine import Engine, Rows

Outputs = NDArray[np.float32]


@dataclass(eq=False, slots=True)
class _Job:
    engine: Engine
    rows: Rows
    done: "asyncio.Future[Outputs]"
    taken: int = 0  # rows that were run, or are in the run that goes on
    parts: list[Outputs] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.rows) - self.taken


class Batcher:
    """Runs what was submitted, in one thread or in the loop itself when that is quicker."""

    def __init__(self, linger_s: float = 0.0) -> None:
        self._linger_s = linger_s
        self._jobs: deque[_Job] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="infer")
        self.runs = 0
        self.rows = 0

    async def infer(self, engine: Engine, rows: Rows) -> Outputs:
        """The outputs of (n, *input shape), n >= 1.

        Raises RuntimeError as TFLite does. A caller that is cancelled costs nothing more.
        """
        job = _Job(engine, rows, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        return await job.done

    def close(self) -> None:
        """Stop; what waits fails with RuntimeError."""
        if self._pump is not None:
            self._pump.cancel()
        for job in self._jobs:
            if not job.done.done():
                job.done.set_exception(RuntimeError("the server ends; ask again"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._jobs:
            # Whatever has arrived by now is read and queued before the next run begins.
            await asyncio.sleep(self._linger_s)
            taken = self._take()
            if not taken:
                continue
            engine, parts = taken[0][0].engine, [part for _, part in taken]
            try:
                if engine.quick:
                    outputs = engine.run(parts)
                else:
                    outputs = await loop.run_in_executor(self._thread, engine.run, parts)
            except Exception as error:  # the interpreter's; the requests hear of it
                self._fail(taken, error)
                continue
            self.runs += 1
            self.rows += len(outputs)
            self._give(taken, outputs)

    def _take(self) -> list[tuple[_Job, Rows]]:
        """Rows for one run, all of one model, first come first."""
        taken: list[tuple[_Job, Rows]] = []
        space, others = 0, []
        while self._jobs:
            job = self._jobs.popleft()
            if job.done.done():  # nobody waits for it any more
                continue
            if not taken:
                space = job.engine.batch
            elif job.engine is not taken[0][0].engine or not space:
                others.append(job)
                continue
            count = min(space, job.left)
            taken.append((job, job.rows[job.taken : job.taken + count]))
            job.taken += count
            space -= count
        self._jobs.extend(others)
        self._jobs.extend(job for job, _ in taken if job.left)
        return taken

    def _give(self, taken: list[tuple[_Job, Rows]], outputs: Outputs) -> None:
        at = 0
        for job, part in taken:
            job.parts.append(outputs[at : at + len(part)])
            at += len(part)
            if not job.left and not job.done.done():
                parts = job.parts
                job.done.set_result(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _fail(self, taken: list[tuple[_Job, Rows]], error: Exception) -> None:
        for job, _ in taken:
            if not job.done.done():
                job.done.set_exception(error)

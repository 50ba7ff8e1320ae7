"""Jobs for the training process, one at a time, for all devices of a daemon.

The process is started when there is work, keeps its interpreter for the next job, and is sent away
when it had none for a while, so that an idle device's memory is the daemon's alone. Whatever
becomes of it costs the job that it was at, and nothing else: a crash, a kill by the kernel, and
standing still, which is told from being slow by what it reports and reads.
"""

import asyncio
import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from edge_runtime.budget import unlimited
from edge_runtime.training.memory import Kills
from edge_runtime.training.messages import (
    REASON_MAX,
    Control,
    DataFound,
    EvaluateOrder,
    Failed,
    Order,
    Progress,
    Ready,
    Report,
    Result,
    Verb,
)
from edge_runtime.training.process import (
    PATIENCE_S,
    Gone,
    Process,
    ProcessSettings,
    how_it_ended,
)
from qflare.faults import LocalFault
from qflare.host.logs import get_logger

LOOK_S: Final = 5.0  # how often a job that says nothing is looked at
STOP_S: Final = 10.0  # a job that doesn't end when asked costs the process
OVERDUE_S: Final = 60.0  # beyond the time after which it should have been killed
_WAKE: Final = Progress(0, "", 0)  # of no job


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How the process is started, and when it is sent away or given up, in seconds."""

    process: ProcessSettings = field(default_factory=ProcessSettings)
    idle_s: float = 120.0
    hung_after_s: float = 300.0


class Job:
    """One order on its way. `result` never fails; what went wrong is a Failed."""

    def __init__(self, order: Order, ceiling: int, service: "Training") -> None:
        self.order, self.ceiling = order, ceiling
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.stage, self.steps = "", 0
        self.held = self.stopped = False
        self._service = service

    def stop(self) -> None:
        """End it as soon as possible."""
        self.stopped = True
        self._service.poke(self)

    def hold(self) -> None:
        """Pause a training before its next step; an evaluation goes on."""
        self.held = True
        self._service.poke(self)

    def resume(self) -> None:
        self.held = False
        self._service.poke(self)


class Training:
    """The queue, and the process that works at it. Use it on one event loop."""

    def __init__(self, settings: ServiceSettings, kills: Kills | None = None) -> None:
        self.settings = settings  # of the next start; may be changed while it runs
        self._log = get_logger("training")
        self._kills = kills or Kills()
        self._jobs: deque[Job] = deque()
        self._more = asyncio.Event()
        self._job: Job | None = None
        self._process: Process | None = None
        self._working: asyncio.Task[None] | None = None
        self._number = 0
        self._moved = 0.0  # when the current job last moved, by the loop's clock

    async def start(self) -> None:
        """Raise LocalFault, with the remedy, if nothing could be trained here; then serve."""
        _, ready = await self._have_process()
        for note in ready.notes:
            self._log.warning("a limit of the training process is not set", detail=note)
        off = unlimited(os.environ)
        if off is not None:
            self._log.warning(
                "MemoryMax= of the unit does nothing here; training is limited by itself alone",
                reason=off.reason,
                remedy=off.remedy,
                memory_mb=self.settings.process.memory_mb,
            )
        await self._dismiss()
        self._working = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End everything at once: nothing of a job is worth waiting for."""
        if self._working is not None:
            self._working.cancel()
            with suppress(asyncio.CancelledError):
                await self._working
        for job in (self._job, *self._jobs):
            if job is not None:
                _finish(job, _stopped(job))
        self._jobs.clear()
        if self._process is not None:
            self._process.kill()
            await self._process.end()
            self._process = None

    @property
    def next_job(self) -> int:
        """A number for an order."""
        self._number += 1
        return self._number

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process else None

    @property
    def failure(self) -> BaseException | None:
        """What ended the queue itself, which only a new start of the daemon can mend."""
        task = self._working
        return task.exception() if task and task.done() and not task.cancelled() else None

    @property
    def overdue(self) -> bool:
        """Should a job have been ended long ago? Then this daemon itself is sick."""
        if self._job is None or self._paused(self._job):
            return False
        waited = asyncio.get_running_loop().time() - self._moved
        return waited > self.settings.hung_after_s + OVERDUE_S

    def submit(self, order: Order, ceiling: int) -> Job:
        """Queue an order; its answer may have `ceiling` bytes."""
        job = Job(order, ceiling, self)
        self._jobs.append(job)
        self._more.set()
        return job

    def poke(self, job: Job) -> None:
        """Something was asked of a job."""
        if job is self._job and self._process is not None:
            self._process.inbox.put_nowait(_WAKE)
        elif job.stopped and job in self._jobs:
            self._jobs.remove(job)
            _finish(job, _stopped(job))
        else:
            self._more.set()

    async def _work(self) -> None:
        while True:
            job = self._next()
            if job is None:
                self._more.clear()
                try:
                    async with asyncio.timeout(self.settings.idle_s if self._process else None):
                        await self._more.wait()
                except TimeoutError:
                    await self._dismiss()
                continue
            self._job = job
            result = await self._do(job)
            self._job = None
            if isinstance(result, Failed) and result.spent:
                await self._dismiss()
            _finish(job, result)

    def _next(self) -> Job | None:
        """The first that may go on; one that is held costs no process, and opens no data yet."""
        job = next((job for job in self._jobs if not self._paused(job)), None)
        if job is not None:
            self._jobs.remove(job)
        return job

    async def _do(self, job: Job) -> Result:
        reason = ""
        # A model that was about to be checked when the process went gets a second chance.
        for _ in range(2 if isinstance(job.order, EvaluateOrder) else 1):
            kills = self._kills.count()
            self._moved = asyncio.get_running_loop().time()
            try:
                process, _ready = await self._have_process()
                await process.order(job.order, job.ceiling, self.settings.hung_after_s)
                return self._told(await self._listen(process, job))
            except LocalFault as fault:
                reason = str(fault)
            except Gone as gone:
                reason = await self._obituary(str(gone), kills)
            self._log.error("the training process is gone", reason=reason)
            if job.stopped:
                return _stopped(job)
        return Failed(job.order.job, reason[:REASON_MAX])

    def _told(self, result: Result) -> Result:
        if isinstance(result, Failed) and result.spent:
            return replace(result, reason=f"{result.reason}; {self._more_memory()}")
        return result

    async def _listen(self, process: Process, job: Job) -> Result:
        """The job's result; raise Gone when there will be none."""
        clock = asyncio.get_running_loop().time
        number, told, asked = job.order.job, False, 0.0
        self._moved, read = clock(), process.bytes_read()
        while True:
            if job.stopped and not asked:
                process.control(Control(number, Verb.STOP))
                asked = clock()
            if job.held is not told:
                process.control(Control(number, Verb.HOLD if job.held else Verb.RESUME))
                told, self._moved = job.held, clock()
            hung_after = self.settings.hung_after_s
            said: Report | None = _WAKE
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_S, hung_after / 4)):
                    said = await process.inbox.get()
            if said is None:
                raise Gone
            if isinstance(said, Progress) and said.job == number:
                job.stage, job.steps = said.stage, said.steps
                self._moved = clock()
            elif isinstance(said, DataFound):
                self._log_data(said)
            elif isinstance(said, Result) and said.job == number:
                return said
            if self._paused(job):
                self._moved = clock()
            if clock() - self._moved > hung_after / 2 and process.bytes_read() > read:
                self._moved, read = clock(), process.bytes_read()
            if asked and clock() - asked > STOP_S:
                process.kill()
                raise Gone("it didn't stop")
            if clock() - self._moved > hung_after:
                process.kill()
                raise Gone(
                    f"it did nothing for {hung_after:g} s (process.hung_after_s) and was killed"
                )

    def _log_data(self, found: DataFound) -> None:
        """What was left out of training and why: a person may have to look at a sensor."""
        usual = all(why == "border" for why, _ in found.left_out)
        level = "warning" if found.problems else "debug" if usual else "info"
        getattr(self._log, level)(
            "samples",
            device=found.device,
            train=found.train,
            test=found.test,
            left_out=", ".join(f"{many} {why}" for why, many in found.left_out) or "none",
            problems="; ".join(found.problems) or "none",
        )

    def _paused(self, job: Job) -> bool:
        return job.held and not job.stopped and not isinstance(job.order, EvaluateOrder)

    async def _have_process(self) -> tuple[Process, Ready]:
        """The process, started if there is none; raise LocalFault if that fails."""
        if self._process is not None and not self._process.alive:
            self._log.warning("the training process ended while it had nothing to do")
            await self._dismiss()
        if self._process is None:
            self._process, ready = await Process.start(self.settings.process)
            return self._process, ready
        return self._process, Ready((), "")

    async def _dismiss(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end(PATIENCE_S)

    async def _obituary(self, said: str, kills: int) -> str:
        process, self._process = self._process, None
        if process is None:
            return said
        why = said or process.garbled
        status = await process.end(PATIENCE_S)
        if why:
            return f"the training process: {why}"
        how = how_it_ended(status)
        if self._kills.count() > kills:
            return (
                f"the training process was killed ({how}): the memory ran out; allow it more "
                "(MemoryMax= of the unit), or train a smaller model"
            )
        if status is not None and status < 0:
            return (
                f"the training process was killed ({how}); the memory may have run out: "
                f"{self._more_memory()}"
            )
        return (
            f"the training process: {how}; its last words are in the journal; if they are about "
            f"memory, {self._more_memory()}"
        )

    def _more_memory(self) -> str:
        return (
            f"raise process.memory_mb (now {self.settings.process.memory_mb}) if the machine has "
            "more, or train a smaller model"
        )


def _stopped(job: Job) -> Failed:
    return Failed(job.order.job, "stopped", stopped=True)


def _finish(job: Job, result: Result) -> None:
    if not job.result.done():
        job.result.set_result(result)

"""Child processes that are watched: started when ready, restarted when they fall, ended in order.

Each child leads a session of its own, so that Ctrl-C in a terminal reaches us alone, and is
killed by the kernel when we die, so that no crash of ours leaves orphans. Nothing is remembered on
disk but the children's logs: there is no pid file that a crashed run could leave to mislead us.
"""

import asyncio
import ctypes
import os
import random
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from qflare.faults import LocalFault
from qflare.host.files import ensure_private_dir

CONFIG_EXIT = 78  # EX_CONFIG: starting it again would change nothing

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to run.

    `ready` returns when the child can serve and raises LocalFault when it won't. `environment`
    is added to ours. A child that ended `restarts` times within `restarts_within_s` has failed.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None
    ready: Callable[[], Awaitable[None]] | None = None
    ready_within_s: float = 30.0
    stop_within_s: float = 10.0
    restarts: int = 10
    restarts_within_s: float = 60.0
    backoff_first_s: float = 0.1
    backoff_max_s: float = 5.0


class ChildState(StrEnum):
    """A child's life, for a display."""

    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """Something happened to a child."""

    name: str
    state: ChildState
    detail: str = ""


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: asyncio.subprocess.Process | None = None
    watcher: asyncio.Task[None] | None = None
    stopping: bool = False
    ends: deque[float] = field(default_factory=deque)


class Supervisor:
    """Runs children on the event loop of the main thread; use it as an async context manager."""

    def __init__(
        self,
        log_dir: Path,
        on_event: Callable[[ChildEvent], None] = lambda _event: None,
        rng: random.Random | None = None,
    ) -> None:
        self._log_dir = ensure_private_dir(log_dir)
        self._on_event = on_event
        self._rng = rng or random.SystemRandom()
        self._children: dict[str, _Child] = {}
        self._failure: asyncio.Future[LocalFault] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_all()

    def pid(self, name: str) -> int | None:
        """The child's process id while it runs."""
        child = self._children.get(name)
        process = child.process if child else None
        return process.pid if process and process.returncode is None else None

    def log_file(self, name: str) -> Path:
        """Where the child's standard output and error go, one run after the other."""
        return self._log_dir / f"{name}.log"

    async def start(self, spec: ChildSpec) -> None:
        """Start a child and wait until it is ready.

        Raises LocalFault, with the end of its log, if it can't be run, ends, or isn't ready in
        time; it is gone then, and its name is free.
        """
        if spec.name in self._children:
            raise LocalFault(f"a child named {spec.name} is running already")
        child = self._children[spec.name] = _Child(spec)
        try:
            await self._launch(child)
        except BaseException as error:
            child.stopping = True
            await asyncio.shield(self._end(child))
            del self._children[spec.name]
            if isinstance(error, LocalFault):
                self._on_event(ChildEvent(spec.name, ChildState.FAILED, str(error)))
            raise
        child.watcher = asyncio.create_task(self._watch(child))

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a child and everything that it started; it will be restarted."""
        pid = self.pid(name)
        if pid is None:
            raise LocalFault(f"no child named {name} is running")
        _signal_group(pid, sig)

    async def stop(self, name: str) -> None:
        """End a child for good: SIGTERM, then SIGKILL when it takes too long."""
        child = self._children.pop(name, None)
        if child is None:
            return
        child.stopping = True
        if child.watcher:
            child.watcher.cancel()
            await asyncio.gather(child.watcher, return_exceptions=True)
        await self._end(child)
        self._on_event(ChildEvent(name, ChildState.STOPPED))

    async def stop_all(self) -> None:
        """End all children, the last started first."""
        for name in reversed(list(self._children)):
            await self.stop(name)

    async def failed(self) -> LocalFault:
        """Wait until some child has failed for good, and return why."""
        if self._failure is None:
            self._failure = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._failure)

    async def _launch(self, child: _Child) -> None:
        spec = child.spec
        self._on_event(ChildEvent(spec.name, ChildState.STARTING))
        log = os.open(
            self.log_file(spec.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            child.process = await asyncio.create_subprocess_exec(
                *spec.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=spec.cwd,
                env={**os.environ, **spec.environment},
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid()),
            )
        except OSError as error:
            raise LocalFault(f"cannot run {spec.command[0]} ({spec.name}): {error}") from None
        finally:
            os.close(log)
        if spec.ready is not None:
            await self._wait_ready(spec, child.process, spec.ready)
        self._on_event(ChildEvent(spec.name, ChildState.READY, f"pid {child.process.pid}"))

    async def _wait_ready(
        self,
        spec: ChildSpec,
        process: asyncio.subprocess.Process,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        served = asyncio.ensure_future(ready())
        ended = asyncio.ensure_future(process.wait())
        try:
            done, _ = await asyncio.wait(
                {served, ended},
                timeout=spec.ready_within_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ended in done:
                raise LocalFault(self._obituary(spec, process, "while starting"))
            if served not in done:
                raise LocalFault(f"{spec.name} wasn't ready within {spec.ready_within_s:g} s")
            served.result()
        finally:
            served.cancel()
            ended.cancel()
            await asyncio.gather(served, ended, return_exceptions=True)

    async def _watch(self, child: _Child) -> None:
        """Restart the child whenever it ends, until it has ended too often."""
        spec, loop = child.spec, asyncio.get_running_loop()
        while True:
            process = child.process
            if process is not None:
                code = await process.wait()
                _signal_group(process.pid, signal.SIGKILL)  # whatever it left behind
                detail = self._obituary(spec, process)
                self._on_event(ChildEvent(spec.name, ChildState.ENDED, detail))
                child.ends.append(loop.time())
                while child.ends[0] < loop.time() - spec.restarts_within_s:
                    child.ends.popleft()
                if code == CONFIG_EXIT or len(child.ends) > spec.restarts:
                    self._give_up(spec, detail)
                    return
            longest = min(spec.backoff_max_s, spec.backoff_first_s * 2 ** len(child.ends))
            await asyncio.sleep(self._rng.uniform(longest / 2, longest))
            try:
                await self._launch(child)
            except LocalFault:
                await self._end(child)  # the next turn counts it

    def _give_up(self, spec: ChildSpec, detail: str) -> None:
        fault = LocalFault(detail)
        self._on_event(ChildEvent(spec.name, ChildState.FAILED, detail))
        if self._failure is None:
            self._failure = asyncio.get_running_loop().create_future()
        if not self._failure.done():
            self._failure.set_result(fault)

    async def _end(self, child: _Child) -> None:
        process = child.process
        if process is None:
            return
        if process.returncode is None:
            _signal_group(process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), child.spec.stop_within_s)
            except TimeoutError:
                _signal_group(process.pid, signal.SIGKILL)
                await process.wait()
        _signal_group(process.pid, signal.SIGKILL)

    def _obituary(
        self, spec: ChildSpec, process: asyncio.subprocess.Process, when: str = ""
    ) -> str:
        code = process.returncode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return f"{spec.name} {how} {when}".rstrip() + self._last_words(spec.name)

    def _last_words(self, name: str) -> str:
        with suppress(OSError), self.log_file(name).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            lines = log.read().decode(errors="replace").splitlines()[-5:]
            if lines:
                return f"; the end of {self.log_file(name)}:\n  " + "\n  ".join(lines)
        return f"; its log {self.log_file(name)} is empty"


def _signal_group(pid: int, sig: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, sig)


def _dies_with(parent: int) -> Callable[[], None]:
    """What the child does between fork and exec; only system calls, for it has but one thread."""
    prctl = _libc.prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL.value)
        if os.getppid() != parent:  # we died before the child could ask
            os._exit(1)

    return ask

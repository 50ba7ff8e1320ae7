"""One training process, as its daemon holds it: started, spoken to, ended. I/O."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edge_runtime.training.messages import (
    HEAD,
    WORDS_MAX,
    Control,
    Order,
    Ready,
    Report,
    Setup,
    parse_report,
)
from qflare.faults import LocalFault, PeerFault

START_WITHIN_S: Final = 60.0  # a loaded board may well take ten seconds for it
PATIENCE_S: Final = 2.0  # for a process to end by itself
END_WITHIN_S: Final = 10.0  # after SIGKILL; longer only if the kernel is stuck
_LOOK_S: Final = 0.02
# What is the daemon's own: systemd's sockets and credentials, and settings that may name secrets.
_PRIVATE: Final = ("NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "QFLARE_", "WATCHDOG_", "LISTEN_")


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What a training process may take. Memory in MiB of private memory."""

    threads: int = 1
    memory_mb: int = 512
    nice: int = 10


class Gone(Exception):
    """The process ended, or said what makes no sense and was ended."""


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a training process is told of its daemon's environment, and what keeps it small."""
    mine = {name: value for name, value in environ.items() if not name.startswith(_PRIVATE)}
    # BLAS makes a thread, and memory for it, for every core; nothing large is multiplied by it.
    return mine | {"PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"}


class Process:
    """A child that trains. What it says waits in `inbox`; None there: it is gone."""

    def __init__(
        self,
        child: "subprocess.Popen[bytes]",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.inbox: asyncio.Queue[Report | None] = asyncio.Queue()
        self.ceiling = WORDS_MAX  # bytes of the next frame
        self.garbled = ""  # why its word could not be taken
        self._child, self._reader, self._writer = child, reader, writer
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, settings: ProcessSettings) -> tuple[Self, Ready]:
        """Start one and wait until it has set its limits; LocalFault, with the remedy, if it fails.

        It runs this interpreter without docstrings and assertions, which are 2 MB.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-OO", "-m", "edge_runtime.training.child"]
        try:
            with theirs:
                child = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment(os.environ),
                )
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except OSError as error:
            ours.close()
            raise LocalFault(f"the training process can't be started: {error}") from None
        made = cls(child, reader, writer)
        try:
            made._send(Setup(settings.threads, settings.memory_mb * 2**20, settings.nice))
            async with asyncio.timeout(START_WITHIN_S):
                said = await made.inbox.get()
        except TimeoutError:
            said = None
        except BaseException:
            await made.end()
            raise
        if isinstance(said, Ready) and not said.lacks:
            return made, said
        status = await made.end(PATIENCE_S)
        if isinstance(said, Ready):
            raise LocalFault(said.lacks)
        how = made.garbled or how_it_ended(status)
        raise LocalFault(f"the training process doesn't start: {how}; its last words are above")

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return not self._listening.done()

    async def order(self, order: Order, ceiling: int, within_s: float) -> None:
        """Hand over a job, to which an answer may have `ceiling` bytes; raise Gone."""
        self.ceiling = max(ceiling, WORDS_MAX)
        self._send(order)
        try:
            async with asyncio.timeout(within_s):
                await self._writer.drain()
        except (OSError, TimeoutError):
            raise Gone from None

    def control(self, control: Control) -> None:
        """Say something short about a job."""
        self._send(control)

    def _send(self, message: Setup | Order | Control) -> None:
        body = message.to_bytes()
        self._writer.write(HEAD.pack(len(body)))
        self._writer.write(body)

    async def _listen(self) -> None:
        try:
            while True:
                (size,) = HEAD.unpack(await self._reader.readexactly(HEAD.size))
                if size > self.ceiling:
                    self.garbled = f"it wanted to say {size} bytes, of at most {self.ceiling}"
                    return
                self.inbox.put_nowait(parse_report(await self._reader.readexactly(size)))
        except PeerFault as fault:
            self.garbled = f"it said what makes no sense: {fault}"
        except (OSError, EOFError):
            pass
        finally:
            self.inbox.put_nowait(None)

    def bytes_read(self) -> int:
        """All bytes that it ever read, of files too: a sign of life where there are no steps."""
        with suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{self.pid}/io").read_text().split()[1])
        return 0

    async def end(self, patience_s: float = 0.0) -> int | None:
        """Close the line, on which it ends by itself; kill it after `patience_s`.

        Its exit status, negative for a signal; None if the kernel doesn't let go of it.
        """
        self._writer.close()
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        if await self._wait(patience_s) is None:
            self._child.kill()
            await self._wait(END_WITHIN_S)
        return self._child.returncode

    async def _wait(self, seconds: float) -> int | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._child.poll() is None and loop.time() < until:
            await asyncio.sleep(_LOOK_S)
        return self._child.returncode

    def kill(self) -> None:
        self._child.kill()


def how_it_ended(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "it can't be ended, the kernel holds it"
    if status >= 0:
        return f"it ended with status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"

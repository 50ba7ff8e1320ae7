"""The training process: `python -m edge_runtime.training.child SOCKET PARENT`. Started by a daemon.

It has one socket to its daemon, and ends when that is closed or the daemon is gone. One thread
listens, so that a job can be stopped, held and resumed while the other works at it.
"""

import contextlib
import faulthandler
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Final

from edge_runtime.interpreter import what_lacks
from edge_runtime.training.limits import die_with, restrict
from edge_runtime.training.messages import (
    FRAME_MAX,
    HEAD,
    Control,
    Order,
    Progress,
    Ready,
    Report,
    Setup,
    Verb,
    parse_order,
)
from qflare.host.memory import one_heap

_STACK: Final = 512 * 1024  # of the thread that listens; the usual 8 MiB would count as memory


class Ended(Exception):
    """The daemon closed the socket."""


class Line:
    """Frames over the socket. One thread may receive and one send."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def receive(self) -> bytes:
        """The next frame's bytes; raise Ended when there will be none."""
        (size,) = HEAD.unpack(self._exactly(HEAD.size))
        if size > FRAME_MAX:
            raise Ended
        return bytes(self._exactly(size))

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                got = self._socket.recv_into(view)
            except ConnectionError:
                got = 0
            if not got:
                raise Ended
            view = view[got:]
        return data

    def send(self, report: Report) -> None:
        body = report.to_bytes()
        with contextlib.suppress(ConnectionError):  # the listening thread ends the process
            self._socket.sendall(HEAD.pack(len(body)) + body)


class Worker:
    """Takes orders one after the other."""

    def __init__(self, line: Line, threads: int) -> None:
        self._line, self._threads = line, threads
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._job = 0  # that may be stopped, held and resumed: the last that was ordered
        self._stop, self._hold = threading.Event(), threading.Event()

    def listen(self) -> None:
        """Until the daemon goes, and the process with it."""
        try:
            while True:
                said = parse_order(self._line.receive())
                with self._lock:
                    self._hear(said)
        except Ended:
            os._exit(0)
        except BaseException:
            faulthandler.dump_traceback()
            os._exit(1)

    def _hear(self, said: Order | Control) -> None:
        if not isinstance(said, Control):
            self._job = said.job
            self._stop, self._hold = threading.Event(), threading.Event()
            self._orders.put(said)
        elif said.job == self._job:
            match said.verb:
                case Verb.STOP:
                    self._stop.set()
                case Verb.HOLD:
                    self._hold.set()
                case Verb.RESUME:
                    self._hold.clear()

    def work(self) -> None:
        """For ever."""
        from edge_runtime.workbench import Workbench

        workbench = Workbench(self._threads)
        while True:
            order = self._orders.get()
            with self._lock:
                stop, hold = self._stop, self._hold

            def say(stage: str, steps: int, job: int = order.job) -> None:
                self._line.send(Progress(job, stage, steps))

            result = workbench.do(order, stop, hold, say)
            for found in workbench.looked_at():
                self._line.send(found)
            self._line.send(result)
            del order, result


def main(argv: Sequence[str]) -> None:
    """Serve the daemon `argv[2]` over the open socket `argv[1]`; does not return."""
    die_with(int(argv[2]))
    # A stop of the whole unit and Ctrl-C in a terminal reach this process too; the daemon ends it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    one_heap()
    line = Line(socket.socket(fileno=int(argv[1])))
    try:
        setup = Setup.parse(line.receive())
    except Ended:
        return
    line.send(Ready(restrict(setup.memory, setup.nice), what_lacks()))
    worker = Worker(line, setup.threads)
    threading.stack_size(_STACK)
    threading.Thread(target=worker.listen, name="listener", daemon=True).start()
    threading.stack_size(0)
    worker.work()


if __name__ == "__main__":
    main(sys.argv)

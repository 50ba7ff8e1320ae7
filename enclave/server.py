"""`qflare-enclave`: the machine behind a Unix socket. The only file of the enclave that does I/O.

Frames of a 4-byte big-endian length and one message; one coordinator at a time, and a new
connection replaces the old one. Updates are verified, opened and decoded by several threads;
replies leave in the order of the requests; any other request waits until no update is in hand.
Whatever comes in, the process goes on. Only a failure of its own disk ends it, because a reply
whose state isn't durable must not be given; it is then started again, and goes on from the disk.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is loaded; the threads are ours to make

import argparse  # noqa: E402
import fcntl  # noqa: E402
import json  # noqa: E402
import queue  # noqa: E402
import secrets  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import stat  # noqa: E402
import sys  # noqa: E402
from concurrent.futures import Future, ThreadPoolExecutor, wait  # noqa: E402
from contextlib import suppress  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from pathlib import Path  # noqa: E402
from threading import Thread  # noqa: E402

from enclave.config import Config  # noqa: E402
from enclave.events import Persist, Reply  # noqa: E402
from enclave.evidence.choose import choose  # noqa: E402
from enclave.hardening import close_memory, lock_down  # noqa: E402
from enclave.machine import EnclaveMachine, parse_request, refusal, request_kind  # noqa: E402
from enclave.slots import Slots  # noqa: E402
from qflare.crypto.keys import VerifyKey  # noqa: E402
from qflare.crypto.suites import suite_of_verify_key  # noqa: E402
from qflare.enclave_wire import FRAME_MAX, Admit, Refused  # noqa: E402
from qflare.faults import LocalFault, PeerFault, Reason  # noqa: E402
from qflare.messages import Message  # noqa: E402
from qflare.verifiers.simulated import INSECURE_SIMULATED  # noqa: E402

EX_CONFIG = 78
SOCKET_PATH_MAX = 107  # bytes, of the kernel
_PIECE = 2**20


def log(level: str, event: str, **fields: object) -> None:
    """One line of JSON to standard error; fields are names, numbers and reasons only."""
    record = {"timestamp": datetime.now(UTC).isoformat(), "level": level, "event": event, **fields}
    sys.stderr.write(json.dumps(record) + "\n")
    sys.stderr.flush()


class Service:
    """The machine, its disk and its threads."""

    def __init__(self, config: Config, machine: EnclaveMachine, slots: Slots) -> None:
        self.machine, self._slots = machine, slots
        self.threads = config.threads
        self.pool = ThreadPoolExecutor(config.threads, "admit")
        self.failed = False
        self.wake_reader, self.wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self.wake_writer)

    def answer(self, frame: bytes) -> bytes:
        """Handle one request and perform its effects; return the reply's bytes.

        Raises LocalFault if the state cannot be made durable: nothing may be answered then.
        """
        if self.failed:
            raise LocalFault("the disk failed; start again")
        reply: Message | None = None
        try:
            for effect in self.machine.handle(parse_request(frame)):
                match effect:
                    case Persist():
                        self._slots.write(effect.sealed)
                    case Reply():
                        reply = effect.message
        except PeerFault as fault:
            reply = refusal(fault)
        except OSError as error:
            raise LocalFault(f"the state was not written ({error}); mend the disk") from None
        assert reply is not None  # noqa: S101 - every list of effects ends with one
        kind = request_kind(frame)
        name = kind.__name__ if kind else "?"
        if isinstance(reply, Refused):
            log("warning", "refused", request=name, reason=reply.reason, detail=reply.detail)
        elif kind is not Admit:
            log("info", "answered", request=name, phase=self.machine.phase.value)
        return reply.to_bytes()

    def admit(self, frame: bytes) -> bytes:
        """`answer` for an update: nothing that a device sends may end the process."""
        try:
            return self.answer(frame)
        except Exception as error:  # nothing was changed: the machine adds last
            log("error", "admission failed", error=type(error).__name__)
            return refusal(PeerFault(Reason.MALFORMED, "admission failed")).to_bytes()

    def fail(self, error: Exception) -> None:
        """End the process from another thread."""
        log("critical", "stopping", error=f"{type(error).__name__}: {error}")
        self.failed = True
        os.write(self.wake_writer, b"!")


class Session:
    """One connection: this thread reads, another writes, in the order of what was read."""

    def __init__(self, connection: socket.socket, service: Service) -> None:
        self._connection, self._service = connection, service
        # At most this many updates are in memory, however many the coordinator has sent.
        self._replies: queue.Queue[Future[bytes] | None] = queue.Queue(service.threads + 1)
        self._thread = Thread(target=self._run, name="session")
        self._thread.start()

    def stop(self) -> None:
        """Close the connection, and wait for what is being worked on."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        writer = Thread(target=self._write, name="replies")
        writer.start()
        try:
            self._read()
        except (OSError, EOFError):
            pass  # gone; whoever comes next is answered as ever
        except Exception as error:
            self._service.fail(error)
        finally:
            self._replies.put(None)
            writer.join()
            self._connection.close()
            log("info", "disconnected")

    def _read(self) -> None:
        running: list[Future[bytes]] = []
        while True:
            length = int.from_bytes(self._receive(4), "big")
            kind = request_kind(self._receive(min(length, 3), socket.MSG_PEEK))
            if length > self._service.machine.frame_ceiling(kind):
                self._skip(length)
                reply = self._service.machine.refuse_oversize(kind, length)
                log("warning", "refused", request="oversize", reason=reply.reason, bytes=length)
                future = _done(reply.to_bytes())
            elif kind is Admit:
                frame = self._receive(length)
                running = [one for one in running if not one.done()]
                future = self._service.pool.submit(self._service.admit, frame)
                running.append(future)
                del frame
            else:
                wait(running)
                future = _done(self._service.answer(self._receive(length)))
            self._replies.put(future)
            del future

    def _write(self) -> None:
        while (future := self._replies.get()) is not None:
            reply = future.result()
            try:
                self._connection.sendall(len(reply).to_bytes(4, "big"))
                self._connection.sendall(reply)
            except OSError:  # gone: end the reader too, and empty the queue for it
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
            del future, reply

    def _receive(self, length: int, flags: int = 0) -> bytes:
        """Exactly `length` bytes; raise EOFError at the end of the connection."""
        parts: list[bytes] = []
        while length:
            part = self._connection.recv(min(length, 2**30), flags | socket.MSG_WAITALL)
            if not part or (flags and len(part) < length):
                raise EOFError
            parts.append(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _skip(self, length: int) -> None:
        if length > FRAME_MAX:
            raise EOFError  # no frame of this protocol
        while length:
            length -= len(self._receive(min(length, _PIECE)))


def _done(reply: bytes) -> Future[bytes]:
    future: Future[bytes] = Future()
    future.set_result(reply)
    return future


def private_dir(path: Path) -> None:
    """Make `path` (0700); raise LocalFault if it is there and others may write to it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o022:
        raise LocalFault(f"{path} can be written by others; give it to us alone: chmod 700")


def load(config: Config, slots: Slots) -> tuple[EnclaveMachine, Path | None]:
    """The machine from what is on disk, and where its evidence comes from, if that is a directory.

    Raises LocalFault or OSError.
    """
    try:
        raw = config.owner_key.read_bytes()
        owner_key = VerifyKey.parse(suite_of_verify_key(raw), raw)
    except PeerFault as fault:
        raise LocalFault(f"{config.owner_key} is no owner key: {fault.detail}") from None
    provider, keep = choose(config.provider, config.state_dir)
    random, seed = secrets.token_bytes, config.insecure_seed
    return EnclaveMachine(config.fleet, owner_key, provider, random, slots.state, seed), keep


def listen(path: Path) -> socket.socket:
    """Bind the socket (0600), in the place of one that a crash left behind."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise LocalFault(f"{path} is too long for a socket; the limit is {SOCKET_PATH_MAX} bytes")
    private_dir(path.parent)
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(before)
    listener.listen(4)
    return listener


def serve(listener: socket.socket, service: Service) -> int:
    """Accept until SIGTERM or SIGINT (0), or until the disk fails (1)."""
    session: Session | None = None
    log("info", "listening")
    while True:
        ready, _, _ = select.select([listener.fileno(), service.wake_reader], [], [])
        if service.wake_reader in ready:
            break
        connection, _ = listener.accept()
        if session is not None:
            session.stop()
        log("info", "connected")
        session = Session(connection, service)
    listener.close()
    if session is not None:
        session.stop()
    service.pool.shutdown()
    log("info", "stopped")
    return int(service.failed)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `qflare-enclave`; 78 is a configuration that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="qflare-enclave",
        description="The part of QFLARE that sees single updates: a process behind a Unix socket.",
        epilog="Before it answers it gives up files, sockets, new processes and new code (layers "
        "in its log; docs/enclave.md). That keeps out everybody but root and the kernel. With "
        "provider insecure_simulated, whoever reads the disk sees every secret, and its evidence "
        "proves nothing.",
    )
    parser.add_argument("--config", type=Path, required=True, help="enclave.toml")
    parser.add_argument("--check", action="store_true", help="say whether it could start, and stop")
    options = parser.parse_args(arguments)
    try:
        close_memory()
        config = Config.parse(options.config.read_text())
        private_dir(config.state_dir)
        # One enclave a directory; the kernel lets go of the lock when the process ends.
        lock = os.open(config.state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        slots = Slots(config.state_dir)
        machine, keep = load(config, slots)
        slots.state = None  # the machine has it; it may be large
    except BlockingIOError:
        log("critical", "cannot start", error=f"another enclave runs in {config.state_dir}")
        return 1
    except (LocalFault, OSError, UnicodeDecodeError) as error:
        log("critical", "cannot start", config=str(options.config), error=str(error))
        return EX_CONFIG
    about = {
        "fleet": config.fleet,
        "provider": config.provider,
        "measurement": str(machine.measurement),
        "phase": machine.phase.value,
        "secure": config.provider != INSECURE_SIMULATED,
    }
    if options.check:
        log("info", "ready", **about)
        return 0
    try:
        listener = listen(config.socket)
        service = Service(config, machine, slots)
        log("info", "ready", **about, layers=lock_down(keep))
        return serve(listener, service)
    except (LocalFault, OSError) as error:
        log("critical", "cannot serve", error=str(error))
        return EX_CONFIG if isinstance(error, LocalFault) else 1


if __name__ == "__main__":
    raise SystemExit(main())

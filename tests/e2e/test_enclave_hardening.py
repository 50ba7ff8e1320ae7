"""Out of the locked-down process, and into it: every way that is refused, tried for real."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qflare.enclave_wire import Ask
from tests.e2e.test_enclave_process import ROOT, Enclave
from tests.enclave_kit import Fleet

ATTEMPTS = """
import array, ctypes, fcntl, json, mmap, os, signal, socket, sys, termios, threading
from pathlib import Path
from enclave.hardening import lock_down

libc = ctypes.CDLL(None, use_errno=True)
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
ours, theirs = socket.socketpair()
parent = os.getppid()
terminal = os.openpty()[1]
status = os.open("/proc/self/status", os.O_RDONLY)
stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
socket.send_fds(ours, [b"x"], [stranger.fileno()])
keep = Path(sys.argv[2]) if len(sys.argv) > 2 else None
layers = lock_down(keep)
held = [line for line in os.pread(status, 8192, 0).decode().splitlines() if line[:3] == "Cap"]


def call(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def thread():
    seen = []
    one = threading.Thread(target=seen.append, args=(1,))
    one.start()
    one.join()
    assert seen == [1]


def talk():
    theirs.sendall(b"y")
    assert ours.recv(1) == b"y"


def disk():
    os.pwrite(file, b"state", 0)
    os.ftruncate(file, 5)
    os.fsync(file)


def kept():
    (keep / "inblob").write_bytes(b"x")
    assert (keep / "inblob").read_bytes() == b"x"


attempts = {
    "thread": thread,
    "talk": talk,
    "disk": disk,
    "random": lambda: os.urandom(32),
    "memory": lambda: bytearray(50_000_000),
    "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "write a file": lambda: os.open(sys.argv[1] + ".new", os.O_WRONLY | os.O_CREAT),
    "its own memory": lambda: os.open("/proc/self/mem", os.O_RDWR),
    "list": lambda: os.listdir("/"),
    "remove": lambda: os.unlink(sys.argv[1]),
    "rename": lambda: os.rename(sys.argv[1], sys.argv[1] + ".old"),
    "stat": lambda: os.stat("/etc/shadow"),
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "kill the parent": lambda: os.kill(parent, signal.SIGTERM),
    "IP socket": lambda: socket.socket(socket.AF_INET),
    "IPv6 socket": lambda: socket.socket(socket.AF_INET6),
    "Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "vsock": lambda: socket.socket(40),
    "netlink": lambda: socket.socket(16, socket.SOCK_RAW),
    "memory that runs": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "be root": lambda: os.setresuid(0, 0, 0),
    "dumpable": lambda: call(NUMBERS["prctl"], 4, 1, 0, 0, 0),
    "ptrace": lambda: call(NUMBERS["ptrace"], 16, parent, 0, 0),
    "read another process": lambda: call(NUMBERS["process_vm_readv"], parent, 0, 0, 0, 0, 0),
    "namespace": lambda: call(NUMBERS["unshare"], 0x10000000),
    "memfd": lambda: call(NUMBERS["memfd_create"], b"x", 0),
    "io_uring": lambda: call(425, 1, 0),
    "bpf": lambda: call(NUMBERS["bpf"], 0, 0, 0),
    "keyring": lambda: call(NUMBERS["keyctl"], 0, 0, 0),
    "mount": lambda: call(NUMBERS["mount"], b"none", b"/mnt", b"tmpfs", 0, 0),
    "a 32-bit call": lambda: call(0x40000000 + 39),
    "type on a terminal": lambda: fcntl.ioctl(terminal, termios.TIOCSTI, b"x"),
    "be handed a socket": lambda: socket.recv_fds(theirs, 1, 1),
    "hand on a file": lambda: socket.send_fds(ours, [b"x"], [file]),
    "clone3": lambda: call(435, 0, 0),
    "import": lambda: __import__("wave"),
}
if keep:
    attempts["kept"] = kept
said = {}
for name, attempt in attempts.items():
    try:
        attempt()
        said[name] = "done"
    except OSError as error:
        said[name] = error.strerror
    except ImportError:
        said[name] = "no such module"
os.write(1, json.dumps({"layers": layers, "said": said, "held": held}).encode())
"""
X86 = {"prctl": 157, "ptrace": 101, "process_vm_readv": 310, "unshare": 272, "memfd_create": 319}
X86 |= {"bpf": 321, "keyctl": 250, "mount": 165}
ARM = {"prctl": 167, "ptrace": 117, "process_vm_readv": 270, "unshare": 97, "memfd_create": 279}
ARM |= {"bpf": 280, "keyctl": 219, "mount": 40}
MAY = ("thread", "talk", "disk", "random", "memory")


def locked(tmp_path: Path, *keep: Path) -> dict[str, Any]:
    numbers = ARM if os.uname().machine == "aarch64" else X86
    program = f"NUMBERS = {numbers}\n{ATTEMPTS}"
    command = [sys.executable, "-c", program, str(tmp_path / "state"), *map(str, keep)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_does_its_work_and_nothing_else(tmp_path: Path) -> None:
    found = locked(tmp_path)
    said = found["said"]
    assert {name: said[name] for name in MAY} == dict.fromkeys(MAY, "done")
    for name in said.keys() - set(MAY) - {"clone3", "import"}:
        assert said[name] in ("Operation not permitted", "Permission denied"), (name, said[name])
    assert said["clone3"] == "Function not implemented"  # so that threads come by clone
    assert said["import"] != "done"
    held = dict(line.split(":\t") for line in found["held"])
    assert {held[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
    assert {"closed_memory", "few_calls", "no_new_privileges", "own_user"} <= {*found["layers"]}
    assert (tmp_path / "state").read_bytes() == b"state"


def test_evidence_that_is_read_from_files_is_all_it_still_reads(tmp_path: Path) -> None:
    keep = tmp_path / "entry"
    keep.mkdir()
    (keep / "inblob").touch()
    said = locked(tmp_path, keep)["said"]
    assert said["kept"] == "done"
    if "no_files" in locked(tmp_path, keep)["layers"]:
        for name in ("read a file", "write a file", "its own memory"):
            assert said[name] == "Permission denied", name
    for name in ("fork", "execve", "IP socket", "Unix socket", "memory that runs", "remove"):
        assert said[name] == "Operation not permitted", name


@pytest.fixture
def enclave(tmp_path: Path) -> Iterator[Enclave]:
    it = Enclave(tmp_path, Fleet(count=1))
    it.start()
    yield it
    it.kill()


LOOK = """
import ctypes, json, os, sys
pid, uid = int(sys.argv[1]), int(sys.argv[2])
if os.geteuid() != uid:
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
libc = ctypes.CDLL(None, use_errno=True)
said = {}
for name in ("mem", "maps", "environ", "fd", "auxv", "stack"):
    try:
        path = f"/proc/{pid}/{name}"
        os.listdir(path) if name == "fd" else open(path, "rb").read(1)
        said[name] = "done"
    except OSError as error:
        said[name] = error.strerror
for name, call in {
    "attach": lambda: libc.ptrace(16, pid, 0, 0),
    "read": lambda: libc.process_vm_readv(pid, ctypes.byref(ctypes.c_long()), 0, 0, 0, 0),
    "take a descriptor": lambda: libc.syscall(438, libc.syscall(434, pid, 0), 0, 0),
}.items():
    said[name] = "done" if call() >= 0 and name == "attach" else os.strerror(ctypes.get_errno())
print(json.dumps(said))
"""


@pytest.mark.parametrize("uid", [65534, 12345])
def test_nobody_else_looks_in(enclave: Enclave, uid: int) -> None:
    if os.geteuid() != 0:
        uid = os.geteuid()  # who isn't root looks as the enclave's own user
    assert enclave.process is not None
    command = [sys.executable, "-c", LOOK, str(enclave.process.pid), str(uid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for name in ("mem", "maps", "environ", "fd", "auxv", "stack"):
        assert said[name] in ("Permission denied", "Operation not permitted"), (name, said)
    assert said["attach"] == "Operation not permitted"
    assert said["take a descriptor"] == "Operation not permitted"


def test_it_says_which_layers_hold(enclave: Enclave) -> None:
    lines = (enclave.directory / "log").read_text().splitlines()
    (ready,) = [line for text in lines if (line := json.loads(text))["event"] == "ready"]
    assert {"closed_memory", "few_calls", "no_new_privileges"} <= {*ready["layers"]}
    assert ready["secure"] is False


def test_no_thread_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's threads from before would go on without any layer."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    it = Enclave(tmp_path, Fleet(count=1))
    it.start()
    assert it.process is not None
    try:
        it.ask(Ask())  # it answers when it is locked down, and is listened to before
        for thread in Path(f"/proc/{it.process.pid}/task").iterdir():
            status = dict(line.split(":\t", 1) for line in (thread / "status").open())
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2\n", "1\n")
    finally:
        it.kill()
    program = (
        "import threading, time; from enclave.hardening import lock_down; "
        "threading.Thread(target=time.sleep, args=(1,)).start(); lock_down()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "a library started a thread" in done.stderr

"""A process that nobody looks into and that cannot get out: what Linux gives for that, in layers.

Called once, by the only thread, when everything is loaded and opened. From then on the process has
the descriptors that it holds, memory, threads and a clock, and no way to a file, a socket, another
process or new code. Each layer stands for itself; what the kernel lacks is left out and said.
It stops everybody but root and the kernel: see docs/enclave.md.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from pathlib import Path

from qflare.faults import LocalFault

NOBODY = 65534
_LIBC = ctypes.CDLL(None, use_errno=True)
_SET_DEATH, _GET_DEATH, _SET_DUMPABLE = 1, 2, 4  # linux/prctl.h
_SET_NAME, _SET_SECCOMP, _NO_NEW_PRIVS = 15, 22, 38
_NEW_USER, _NEW_IPC, _NEW_UTS, _NEW_NET = 1 << 28, 1 << 27, 1 << 26, 1 << 30  # linux/sched.h
_THREAD = 1 << 16
# Numbers on x86-64 and on the generic table that arm64 has: asm/unistd_64.h, asm-generic/unistd.h.
_CALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "poll": (7, -1),
    "lseek": (8, 62), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread": (17, 67),
    "pwrite": (18, 68), "readv": (19, 65), "writev": (20, 66), "select": (23, -1),
    "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "nanosleep": (35, 101),
    "getpid": (39, 172), "accept": (43, 202), "sendto": (44, 206), "recvfrom": (45, 207),
    "shutdown": (48, 210), "getsockname": (51, 204),
    "getpeername": (52, 205), "setsockopt": (54, 208), "getsockopt": (55, 209), "exit": (60, 93),
    "fcntl": (72, 25), "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46),
    "gettimeofday": (96, 169), "sigaltstack": (131, 132), "gettid": (186, 178),
    "futex": (202, 98), "sched_getaffinity": (204, 123), "restart": (219, 128),
    "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "exit_group": (231, 94),
    "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99),
    "accept4": (288, 242), "getrandom": (318, 278), "membarrier": (324, 283), "rseq": (334, 293),
}  # fmt: skip
_FILES = {"openat": (257, 56), "newfstatat": (262, 79), "mkdirat": (258, 34)}
_MAP, _PROTECT, _CLONE, _PRCTL, _CLONE3 = (9, 222), (10, 226), (56, 220), (157, 167), (435, 435)
_IOCTL, _NSM = (16, 29), 0xC0200A00  # for Nitro's module alone: a terminal takes input by others
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, audit architecture
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026  # allow; EPERM; ENOSYS


def close_memory() -> None:
    """No core dump, and no look into the memory by others of this user; raise LocalFault."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _LIBC.prctl(_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise LocalFault(
            "the kernel refused PR_SET_DUMPABLE; run on Linux without a seccomp filter"
        )


def lock_down(keep: Path | None = None) -> tuple[str, ...]:
    """Give up everything that isn't needed any more; the layers that hold from now on, sorted.

    `keep` is a directory in which files are still read and written: where evidence comes from.
    Raises LocalFault if the memory can't be closed again, or if there is another thread.
    """
    # unshare(2): it has nothing to do for a lone thread, and refuses a process of several.
    if _LIBC.unshare(_THREAD) != 0 and ctypes.get_errno() == errno.EINVAL:
        raise LocalFault("a library started a thread, which no layer would hold")
    death = ctypes.c_int()
    _LIBC.prctl(_GET_DEATH, ctypes.byref(death))
    layers = {
        "no_network": _unshare(_NEW_NET | _NEW_IPC | _NEW_UTS),
        "own_user": keep is None and _drop_root(),
        "no_new_privileges": _no_privileges(),
        "no_files": _landlock(keep),
    }
    close_memory()  # another user has another idea of it
    _LIBC.prctl(_SET_DEATH, death.value)  # and would outlive the parent that it should die with
    layers |= {"closed_memory": True, "few_calls": _seccomp(keep is not None)}
    return tuple(sorted(layer for layer, holds in layers.items() if holds))


def _unshare(what: int) -> bool:
    """As root in this namespace, or else in a new one where nobody else is anybody."""
    return bool(_LIBC.unshare(what) == 0 or _LIBC.unshare(what | _NEW_USER) == 0)


def _drop_root() -> bool:
    """Nobody, where root started it; evidence that is asked for by files is root's to ask."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    return True


def _no_privileges() -> bool:
    """None now (capset(2); a new user namespace gave all that count in it), and none later."""
    dropped = _LIBC.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)) == 0
    return bool(_LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and dropped)


def _landlock(keep: Path | None) -> bool:
    """Deny every right that this kernel's Landlock knows (landlock(7)), but below `keep`."""
    abi = _LIBC.syscall(444, None, 0, 1)
    if abi < 1:
        return False
    files = (1 << (13 + (abi >= 2) + (abi >= 3) + (abi >= 5))) - 1
    handled = struct.pack("=3Q", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = _LIBC.syscall(444, handled, size, 0)
    if rules < 0:
        return False
    if keep is not None:
        place = os.open(keep, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        allowed = struct.pack("=Qi", 0b1110 | (1 << 14 if abi >= 3 else 0), place)
        added = _LIBC.syscall(445, rules, 1, allowed, 0)
        os.close(place)
        if added != 0:
            return False
    done = _LIBC.syscall(446, rules, 0) == 0
    os.close(rules)
    return bool(done)


def _seccomp(files: bool) -> bool:
    """Refuse every system call that isn't listed (seccomp(2)); EPERM says so to whoever tries."""
    column, architecture = _MACHINES.get(platform.machine(), (0, 0))
    if not architecture:
        return False
    listed = _CALLS | (_FILES if files else {})
    numbers = [call[column] for call in listed.values() if call[column] >= 0]
    step = _instruction
    program = step(0x20, 4) + step(0x15, architecture, 1, 0) + step(0x06, _REFUSE) + step(0x20, 0)
    for number in numbers:
        program += step(0x15, number, 0, 1) + step(0x06, _ALLOW)
    program += step(0x15, _CLONE3[column], 0, 1) + step(0x06, _UNKNOWN)  # so that clone is used
    # Only without PROT_EXEC; only a thread; only that device; only its own name.
    program += _if(_MAP[column], 2, 4, 0) + _if(_PROTECT[column], 2, 4, 0)
    program += _if(_CLONE[column], 0, _THREAD, _THREAD) + _if(_IOCTL[column], 1, 0xFFFFFFFF, _NSM)
    program += _if(_PRCTL[column], 0, 0xFFFFFFFF, _SET_NAME) + step(0x06, _REFUSE)
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    return bool(_LIBC.prctl(_SET_SECCOMP, 2, filter_, 0, 0) == 0)


def _if(number: int, argument: int, mask: int, value: int) -> bytes:
    """Allow this call if that argument, under the mask, has the value; else refuse it."""
    step = _instruction
    test = step(0x20, 16 + 8 * argument) + step(0x54, mask) + step(0x15, value, 0, 1)
    return step(0x15, number, 0, 5) + test + step(0x06, _ALLOW) + step(0x06, _REFUSE)


def _instruction(code: int, k: int, true: int = 0, false: int = 0) -> bytes:
    """One instruction of classic BPF: linux/filter.h."""
    return struct.pack("=HBBI", code, true, false, k)

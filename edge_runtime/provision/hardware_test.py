"""The device tests itself before the technician leaves. I/O.

Nothing here proves that hardware will last; it finds what is broken, missing or mounted wrongly
today: a worn SD card, a supply that sags, a clock that stands, an interpreter that doesn't start.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_runtime.provision import facts
from qflare.faults import LocalFault

MIB: Final = 1024 * 1024
_STORAGE: Final = 8 * MIB
_MEMORY: Final = 32 * MIB
_MEMORY_MIN: Final = 400 * MIB  # a Pi Zero 2 W has 512 less what its GPU takes
_DISK_MIN: Final = 300 * MIB
_HOT: Final = 80.0  # degrees Celsius: a Pi slows down from here on
_MODEL: Final = "watch_cnn"


@dataclass(frozen=True, slots=True)
class Finding:
    """One test: its name, whether it went well, and what was found, in words."""

    name: str
    good: bool
    text: str


def tests(root: Path, state: Path, training: bool) -> Iterator[Callable[[], Finding]]:
    """The tests in order; each may take seconds."""
    yield lambda: processor(root)
    yield lambda: working_memory(root)
    yield lambda: storage(state)
    yield clock
    yield lambda: heat(root)
    yield lambda: supply(root)
    if training:
        yield train


def processor(root: Path) -> Finding:
    """Hash for a moment: wrong results or a core that crawls would show."""
    cores = os.cpu_count() or 1
    block = bytes(range(256)) * 256
    begun = time.process_time()
    digests = {hashlib.sha256(block).digest() for _ in range(200)}
    rate = 200 * len(block) / max(time.process_time() - begun, 1e-6) / MIB
    good = len(digests) == 1
    found = facts.model(root)
    return Finding("processor", good, f"{cores} cores, SHA-256 {rate:.0f} MiB/s; {found}")


def working_memory(root: Path) -> Finding:
    """Fill and read back a piece of memory."""
    whole = facts.memory(root)
    pattern = secrets.token_bytes(MIB)
    filled = bytearray(pattern * (_MEMORY // MIB))
    good = all(filled[at : at + MIB] == pattern for at in range(0, _MEMORY, MIB))
    enough = whole == 0 or whole >= _MEMORY_MIN
    words = f"{whole // MIB} MiB" if whole else "size unknown"
    if not good:
        return Finding("memory", False, f"{words}; what was written read back changed: replace it")
    if not enough:
        return Finding("memory", False, f"{words} is too little; want {_MEMORY_MIN // MIB} or more")
    return Finding("memory", True, f"{words}; {_MEMORY // MIB} MiB written and read back")


def storage(state: Path) -> Finding:
    """Write, flush, read back from the device itself as far as the system lets us."""
    data = secrets.token_bytes(MIB)
    path = state / ".storage-test"
    space = os.statvfs(state)
    free = space.f_bavail * space.f_frsize
    if free < _DISK_MIN:
        text = f"{free // MIB} MiB free, {_DISK_MIN // MIB} are wanted; use a larger card"
        return Finding("storage", False, text)
    try:
        begun = time.monotonic()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(_STORAGE // MIB):
                os.write(descriptor, data)
            os.fsync(descriptor)
            seconds = max(time.monotonic() - begun, 1e-3)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.lseek(descriptor, 0, os.SEEK_SET)
            good = all(os.read(descriptor, MIB) == data for _ in range(_STORAGE // MIB))
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)
    except OSError as error:
        return Finding("storage", False, f"{error.strerror}; replace the card or mount it writable")
    if not good:
        return Finding("storage", False, "what was written read back changed; replace the card")
    rate = _STORAGE / seconds / MIB
    text = f"{free // MIB} MiB free, written at {rate:.1f} MiB/s and read back"
    if rate < 0.5:
        return Finding("storage", False, f"{text}: too slow, replace the card")
    return Finding("storage", True, text)


def clock() -> Finding:
    """Does the time pass? That it is right was another step."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.25)
    passed, truly = time.time() - wall, time.monotonic() - steady
    good = abs(passed - truly) < 0.2
    text = "runs" if good else f"{passed:.2f} s passed in {truly:.2f} s; something else sets it"
    return Finding("clock", good, text)


def heat(root: Path) -> Finding:
    """How warm it is now."""
    degrees = facts.temperature(root)
    if degrees is None:
        return Finding("temperature", True, "no sensor")
    if degrees >= _HOT:
        return Finding("temperature", False, f"{degrees:.0f} °C: give it air before it trains")
    return Finding("temperature", True, f"{degrees:.0f} °C")


def supply(root: Path) -> Finding:
    """Does the supply hold?"""
    sags = facts.under_voltage(root)
    if sags is None:
        return Finding("supply", True, "not measured on this board")
    if sags:
        return Finding("supply", False, "under-voltage now: use a stronger supply or shorter cable")
    return Finding("supply", True, "no under-voltage")


def train() -> Finding:
    """Train a small model for some steps, in a process of its own."""
    from importlib.resources import as_file, files

    from edge_runtime.models.child import Limits, run_child

    resource = files(f"qflare.zoo.{_MODEL}") / f"{_MODEL}.tflite"
    try:
        with as_file(resource) as path:
            begun = time.monotonic()
            outcome = run_child("check", path, {}, Limits(seconds=120.0, memory=512 * MIB))
            seconds = time.monotonic() - begun
    except LocalFault as fault:
        return Finding("training", False, str(fault))
    except OSError as error:
        return Finding("training", False, f"the model of the test is missing: {error.strerror}")
    if outcome.fault:
        return Finding("training", False, f"{outcome.fault}, at {outcome.step!r}")
    for step, result in outcome.results.items():
        if "trouble" in result:
            return Finding("training", False, f"{step}: {result['what']}")
    return Finding("training", True, f"a small model trained as it should, {seconds:.0f} s")


def run(root: Path, state: Path, training: bool, say: Callable[[str], None]) -> tuple[Finding, ...]:
    """All the tests; `say` is told before the slow ones. Raises nothing."""
    findings = []
    for test in tests(root, state, training):
        if test is train:
            say("training a small model")
        try:
            findings.append(test())
        except Exception as error:
            # A test that itself breaks is a finding about this machine, and the others go on.
            findings.append(Finding("test", False, f"{type(error).__name__}: {error}"))
    with suppress(OSError):
        (state / ".storage-test").unlink(missing_ok=True)
    return tuple(findings)

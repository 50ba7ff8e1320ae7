"""Loop devices and mounts; all of it needs root."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from qflare.faults import LocalFault

DISK_BYTES = 48 * 1024 * 1024


def missing() -> str | None:
    """What keeps this machine from power cuts; None if nothing does."""
    if os.geteuid() != 0:
        return "needs root for loop devices and mounts"
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(path, os.R_OK | os.W_OK):
            return f"needs {path}"
    for tool in ("mkfs.ext4", "losetup", "mount"):
        if not any((Path(p) / tool).exists() for p in ("/sbin", "/usr/sbin", "/bin", "/usr/bin")):
            return f"needs {tool}"
    return None


def run(*command: str | Path) -> str:
    """Standard output; raise LocalFault with what the command says if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    if done.returncode != 0:
        raise LocalFault(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout.strip()


def make_ext4(image: Path) -> None:
    """As on a Raspberry Pi: blocks of 4 KiB, a journal, data=ordered."""
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", "-E", options, image)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """The file system of an image; its journal is replayed when it is mounted."""
    at.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", image)
    try:
        run("mount", "-t", "ext4", "-o", "nodiscard", device, at)
        try:
            yield at
        finally:
            _unmount(at)
    finally:
        run("losetup", "-d", device)


@contextmanager
def recorded(image: Path, log: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """The file system of an image, and the file for marks; all that is written goes to the log."""
    fuse = folder / "fuse"
    fuse.mkdir()
    command = [sys.executable, "-m", "benchmarks.power_loss.recorder", image, log, fuse]
    recorder = subprocess.Popen(command)
    try:
        until = monotonic() + 30
        while not (fuse / "disk").exists():
            if recorder.poll() is not None or monotonic() > until:
                raise LocalFault("the recorder did not start")
            sleep(0.02)
        try:
            with mounted(fuse / "disk", folder / "recorded") as files:
                yield files, fuse / "mark"
        finally:
            _unmount(fuse)
    finally:
        try:
            recorder.wait(10)
        except subprocess.TimeoutExpired:
            recorder.kill()
            recorder.wait()


def _unmount(at: Path) -> None:
    for _ in range(50):
        try:
            run("umount", at)
        except LocalFault as fault:
            if "busy" not in str(fault):
                raise
            sleep(0.1)
        else:
            return
    run("umount", "-l", at)

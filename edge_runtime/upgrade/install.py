"""From a bundle to a version that starts: a venv of its wheels and of nothing else. I/O."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from edge_runtime.storage.reserve import free_bytes
from edge_runtime.upgrade.places import Complete, Places
from qflare.faults import LocalFault
from qflare.host.bundle import read_wheels
from qflare.release import ReleaseManifest, Wheel

_INSTALL_S: Final = 3600.0  # unpacking numpy on a slow card takes minutes
_TRY_S: Final = 120.0
# Of LiteRT's accelerators, the one for graphics processors, which no device uses: 17 MB.
UNUSED: Final = "ai_edge_litert/libLiteRtWebGpuAccelerator.so"
_TAIL: Final = 600  # characters of a failed command's last words


def this_python() -> str:
    """The version of Python that a release has to be for, such as 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def this_machine() -> str:
    return platform.machine()


def verify_space(places: Places, manifest: ReleaseManifest) -> None:
    """Raise LocalFault unless there is room for the release."""
    free = free_bytes(places.opt)
    if free < manifest.needs_bytes:
        raise LocalFault(
            f"{places.opt}: {free / 1e6:.0f} MB are free, and release {manifest.version} needs "
            f"{manifest.needs_bytes / 1e6:.0f} MB; make room"
        )


def install(
    source: BinaryIO, manifest: ReleaseManifest, places: Places, config: Path | None
) -> None:
    """Build `versions/<version>` of the wheels that follow in `source`, and try it.

    Everything is checked before pip sees it. Raises PeerFault for a bundle that isn't what was
    signed, LocalFault for what fails then; in both cases no half version counts.
    """
    shutil.rmtree(places.wheels, ignore_errors=True)
    places.wheels.mkdir(mode=0o700)
    try:
        read_wheels(source, manifest, lambda wheel: (places.wheels / wheel.name).open("xb"))
        places.remove(manifest.version)
        _build(places.of(manifest.version), manifest.wheels, places.wheels)
    finally:
        shutil.rmtree(places.wheels, ignore_errors=True)
    try_out(places, manifest.version, config)
    places.finish(Complete(version=manifest.version, sequence=manifest.sequence))


def _build(venv: Path, wheels: Sequence[Wheel], folder: Path) -> None:
    _run("making the environment", [sys.executable, "-I", "-m", "venv", str(venv)], _INSTALL_S)
    listed = folder / "requirements.txt"
    lines = (f"{folder / wheel.name} --hash=sha256:{wheel.digest}\n" for wheel in wheels)
    listed.write_text("".join(lines), encoding="utf-8")
    pip = [str(venv / "bin/python"), "-I", "-m", "pip", "--isolated", "--no-input"]
    _run(
        "pip install",
        [
            *pip,
            *("install", "--no-index", "--no-cache-dir", "--no-compile", "--only-binary=:all:"),
            *("--require-hashes", "-r", str(listed)),
        ],
        _INSTALL_S,
        folder,
    )
    _run("pip check", [*pip, "check"], _INSTALL_S, folder)
    # pip came with Python and is not needed again: 12 MB, and as much again compiled.
    brought = {wheel.project for wheel in wheels}
    spare = [name for name in ("pip", "setuptools") if name not in brought]
    if spare:
        _run("pip uninstall", [*pip, "uninstall", "--yes", *spare], _INSTALL_S, folder)
    for found in (venv / "lib").glob(f"python*/site-packages/{UNUSED}"):
        found.unlink()
    # As the units run: with PYTHONOPTIMIZE=2, and unable to write what isn't compiled yet.
    compile_all = ["-I", "-m", "compileall", "-q", "-o", "2", str(venv / "lib")]
    _run("compiling", [str(venv / "bin/python"), *compile_all], _INSTALL_S)


def try_out(places: Places, version: str, config: Path | None) -> None:
    """Raise LocalFault unless this version starts, and takes the device's configuration.

    A configuration that the version at work doesn't take either is no reason against a new one.
    """
    daemon = places.of(version) / "bin/qflare-edge"
    said = _run(f"{version}: qflare-edge --version", [str(daemon), "--version"], _TRY_S)
    if said.split() != ["qflare", version]:
        raise LocalFault(f"release {version} calls itself {said[:80]!r}; it was built wrongly")
    if config is None or not config.exists():
        return
    ask = ["--config", str(config), "--check"]
    try:
        _run(f"{version}: qflare-edge --check", [str(daemon), *ask], _TRY_S)
    except LocalFault:
        at_work = places.opt / "current/bin/qflare-edge"
        if _takes(at_work, ask):
            raise


def _takes(daemon: Path, ask: list[str]) -> bool:
    try:
        _run("qflare-edge --check", [str(daemon), *ask], _TRY_S)
    except LocalFault:
        return False
    return True


def _run(what: str, command: list[str], within_s: float, scratch: Path | None = None) -> str:
    """Run a command; return what it said, or raise LocalFault with its last words."""
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    if scratch is not None:
        environ["TMPDIR"] = str(scratch)  # /tmp may be in memory
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LocalFault(f"{what}: it took longer than {within_s:.0f} s") from None
    except OSError as error:
        raise LocalFault(f"{what}: {error.strerror}") from None
    said = " ".join(done.stdout.decode("utf-8", "replace").split())
    if done.returncode:
        hint = ""
        if "ensurepip" in said:
            hint = "; install Debian's package python3-venv"
        raise LocalFault(f"{what} failed ({done.returncode}): {said[-_TAIL:]}{hint}")
    return said

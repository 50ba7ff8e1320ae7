"""A small Debian with systemd in a container, into which QFLARE is installed from wheels alone.

The base is made once by mmdebstrap and kept below ~/.cache/qflare. Everything that is tried runs
from a unit inside, which then turns the machine off: so nothing has to be typed into a console.
Memory limits can't be tried so: where the host has no unified hierarchy, a container has none.
"""

import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from edge_runtime.upgrade.install import UNUSED

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qflare"
_PACKAGES: Final = "systemd,systemd-sysv,dbus,python3,python3-venv,procps"
_EDITION: Final = 2  # counts up with what is in the base
VERSION: Final = "/opt/qflare/versions/tried"

_UNIT: Final = """\
[Unit]
Description=What is tried
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /opt/trial/trial.py
ExecStopPost=/usr/bin/systemctl poweroff --no-block
StandardOutput=file:/opt/trial/output
StandardError=file:/opt/trial/errors
"""


def require() -> None:
    """Skip, with what is missing."""
    if os.geteuid() != 0:
        pytest.skip("wants root, who alone can start a container")
    for program, package in (("systemd-nspawn", "systemd-container"), ("mmdebstrap", "mmdebstrap")):
        if shutil.which(program) is None:
            pytest.skip(f"wants {program}; install the package {package}")


def once(factory: pytest.TempPathFactory, name: str, run: Callable[[Path], str]) -> dict[str, Any]:
    """What `run` tells, as JSON, of a machine in a folder of its own: run by one worker, for all.

    One machine at a time: two would share their control groups, and a unit in one may not start.
    """
    require()
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "machine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = shared / f"{name}.json"
        if not told.exists():
            told.write_text(run(factory.mktemp(name)))
        found: dict[str, Any] = json.loads(told.read_text())
        return found


def base() -> Path:
    """The tar archive of the base system, made if there is none yet; skip if it can't be."""
    architecture = run("dpkg", "--print-architecture").strip()
    kept = CACHE / f"bookworm-{architecture}-{_EDITION}.tar"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = kept.with_suffix(f".{os.getpid()}.part.tar")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}"]
        done = subprocess.run([*command, "bookworm", draft], capture_output=True, check=False)
        if done.returncode:
            draft.unlink(missing_ok=True)
            pytest.skip(f"mmdebstrap can't make a Debian here: {done.stderr[-300:]!r}")
        draft.rename(kept)
    return kept


def make(tree: Path, wheels: Path) -> None:
    """Unpack the base into `tree`, and install QFLARE there as an image's builder does."""
    unpack(tree)
    source = tree.with_name("source")
    copy_source(source)
    build_wheel(source, wheels)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    (wheel,) = wheels.glob("qflare-*.whl")
    version = ("--only-binary=:all:", "--python-version", "3.11")
    run(*pip, "download", "-d", wheels, *version, f"{wheel}[edge]", "pip")
    inside = tree / "wheels"
    shutil.copytree(wheels, inside)
    (installer,) = inside.glob("pip-*.whl")
    within(tree, "python3", "-m", "venv", "--without-pip", VERSION)
    within(
        *(tree, f"{VERSION}/bin/python", f"/wheels/{installer.name}/pip", "install", "--quiet"),
        *("--root-user-action=ignore", "--no-index", "--find-links=/wheels"),
        f"qflare[edge] @ file:///wheels/{wheel.name}",
    )
    shutil.rmtree(inside)
    (unused,) = (tree / VERSION.lstrip("/")).glob(f"lib/python*/site-packages/{UNUSED}")
    unused.unlink()
    within(tree, f"{VERSION}/bin/python", "-m", "compileall", "-q", "-o", "2", f"{VERSION}/lib")
    (tree / "opt/qflare/current").symlink_to("versions/tried")
    install_units(tree, tree / VERSION.lstrip("/"))


def unpack(tree: Path) -> None:
    """A bare Debian in `tree`."""
    tree.mkdir()
    run("tar", "-xf", base(), "-C", tree)


def copy_source(target: Path) -> None:
    """What a wheel is built of, without what earlier builds left."""
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("qflare", "edge_runtime", "coordinator", "enclave", "firmware_config", "systemd"):
        shutil.copytree(ROOT / name, target / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)


def build_wheel(source: Path, wheels: Path) -> None:
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "-w", wheels, source)


def install_units(tree: Path, version: Path) -> None:
    """What comes with the wheel beside its programs: units, the user and the directories."""
    share = version / "share/qflare/systemd"
    units = tree / "etc/systemd/system"
    for kind in ("service", "socket", "path"):
        for unit in share.glob(f"*.{kind}"):
            shutil.copy(unit, units)
    for kind in ("sysusers.d", "tmpfiles.d"):
        shutil.copy(share / kind / "qflare.conf", tree / "usr/lib" / kind)
    within(tree, "systemd-sysusers")
    run("systemd-tmpfiles", "--create", f"--root={tree}", "--prefix=/etc", "--prefix=/var/lib")


def boot(tree: Path, trial: Path, within_s: float = 180.0) -> str:
    """Start the machine, let it run `trial`, wait until it is off; what the trial printed."""
    (tree / "opt/trial").mkdir(exist_ok=True)
    shutil.copy(trial, tree / "opt/trial/trial.py")
    shutil.copy(trial.with_name("trial_kit.py"), tree / "opt/trial")
    (tree / "etc/systemd/system/trial.service").write_text(_UNIT)
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    link = wants / "trial.service"
    link.unlink(missing_ok=True)
    link.symlink_to("../trial.service")
    ours, theirs = pty.openpty()  # with a pipe in its place, it neither speaks nor ends
    said: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):
            while data := os.read(ours, 4096):
                said.append(data)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    command = ["systemd-nspawn", "-q", "-b", "-D", tree, "--register=no", "--keep-unit"]
    machine = subprocess.Popen(
        [*command, "--private-network", f"--machine=qflare-trial-{os.getpid()}"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        machine.wait(within_s)
    except subprocess.TimeoutExpired:
        machine.terminate()
        with suppress(subprocess.TimeoutExpired):
            machine.wait(20)
        machine.kill()
        # Where all was tried and only the turning off hangs, that isn't what is tested here.
        if b"Stopped target" not in b"".join(said):
            raise AssertionError(f"the machine isn't off: {b''.join(said)[-2000:]!r}") from None
    finally:
        os.close(ours)
    output = tree / "opt/trial/output"
    if not output.exists():
        pytest.skip(f"no container can be started here: {b''.join(said)[-500:]!r}")
    errors = (tree / "opt/trial/errors").read_text()
    assert not errors, errors
    return output.read_text()


def run(*command: str | Path) -> str:
    """Run it; AssertionError with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


def within(tree: Path, *command: str) -> str:
    """Run it with `tree` as its root."""
    return run("chroot", tree, *command)

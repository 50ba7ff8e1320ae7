"""What either takes on an arm64 device's card, installed from wheels alone."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.device.flower import REQUIREMENTS
from edge_runtime.upgrade.install import UNUSED
from qflare.faults import LocalFault

ROOT = Path(__file__).parents[2]
PYTHON = "3.11"
_GLIBC = range(17, 37)  # manylinux_2_x: Debian 12 has 2.36
_OURS = ("qflare", "edge_runtime", "coordinator", "enclave", "firmware_config", "systemd")
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """MB of `qflare[edge]`, and of Flower with the same trainer: as unpacked, and compiled.

    QFLARE's is as its updater and the image builder's page leave it, without a part of LiteRT that
    no device uses; `install_whole_mb` is with that.

    Compiled is for PYTHONOPTIMIZE=2, as QFLARE's units run and its documents say; Python would
    compile what Flower imports at its first start.
    """
    return {
        "qflare": _install(folder / "qflare", [f"{_wheel(folder)}[edge]"], UNUSED),
        "flower": _install(folder / "flower", REQUIREMENTS),
    }


def _wheel(folder: Path) -> Path:
    """Ours, built from a copy, so that nothing old is in it."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in _OURS:
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    _run("wheel", "--no-deps", "--wheel-dir", str(folder / "wheel"), str(source))
    return next((folder / "wheel").glob("*.whl"))


def _install(
    target: Path, requirements: list[str] | tuple[str, ...], unused: str | None = None
) -> dict[str, float]:
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in _GLIBC]
    _run(
        "install",
        "--only-binary=:all:",
        "--no-compile",
        *platforms,
        "--platform=manylinux2014_aarch64",
        "--implementation=cp",
        f"--python-version={PYTHON}",
        f"--target={target}",
        *requirements,
    )
    whole = unpacked = _size(target)
    if unused is not None:
        (target / unused).unlink()
        unpacked = _size(target)
    compiling = [sys.executable, "-m", "compileall", "-q", "-o", "2", str(target)]
    subprocess.run(compiling, stdout=subprocess.DEVNULL, check=False)  # some tests are no Python
    return {
        "install_whole_mb": whole,
        "install_mb": unpacked,
        "install_compiled_mb": _size(target),
    }


def _run(*arguments: str) -> None:
    done = subprocess.run([*_PIP, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalFault(f"pip {arguments[0]} failed: {done.stderr[-1000:].strip()}")


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6

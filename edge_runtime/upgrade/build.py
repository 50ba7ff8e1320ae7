"""From a folder of wheels to a signed bundle, on the owner's machine. I/O."""

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from qflare.crypto.keys import SigningKey
from qflare.envelope import sign
from qflare.faults import LocalFault, PeerFault
from qflare.host.bundle import describe_wheel, write_bundle
from qflare.host.files import sync_dir
from qflare.names import FleetId
from qflare.release import Machine, ReleaseManifest

# Wheels for any glibc from 2.17 to that of Ubuntu 22.04, the oldest system that is supported.
_GLIBC: Final = range(35, 16, -1)
_COMPILED: Final = 1.7  # what is unpacked and compiled takes, as a multiple of what is unpacked
_MARGIN: Final = 32_000_000
_PIP_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Target:
    """What kind of device a release is for."""

    python: str
    machine: Machine

    def options(self) -> list[str]:
        """For pip: wheels for that target, and never an sdist."""
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in _GLIBC]
        platforms = [part for tag in tags for part in ("--platform", tag)]
        return ["--only-binary=:all:", "--python-version", self.python, *platforms]


@dataclass(frozen=True, slots=True)
class Order:
    """What release to build."""

    wheels: Path
    version: str
    sequence: int
    target: Target
    fleet: FleetId | None = None
    extras: str = "edge"
    collect: bool = False  # get what isn't in the folder from pip's index


def build(
    order: Order, key: SigningKey, out: Path, report: Callable[[str], None]
) -> ReleaseManifest:
    """Write the bundle of everything that qflare[extras] needs, and of nothing else.

    Raises LocalFault if a wheel is missing, or for a version or number that can't be.
    """
    wanted = (
        f"qflare[{order.extras}]=={order.version}" if order.extras else f"qflare=={order.version}"
    )
    if order.collect:
        report(f"collecting wheels for {order.target.machine}, Python {order.target.python}")
        _pip(
            ["download", "--dest", str(order.wheels), "--find-links", str(order.wheels)],
            [*order.target.options(), wanted],
        )
    paths = sorted(_needed(order, wanted), key=lambda path: path.name)
    try:
        manifest = ReleaseManifest(
            fleet=order.fleet,
            version=order.version,
            sequence=order.sequence,
            python=order.target.python,
            machine=order.target.machine,
            wheels=tuple(map(describe_wheel, paths)),
            needs_bytes=_needs(paths),
        )
    except PeerFault as fault:
        raise LocalFault(f"{order.wheels}: {fault.detail}") from None
    draft = out.with_name(f".{out.name}.draft")
    try:
        with draft.open("wb") as file:
            write_bundle(file, sign(manifest, key), paths)
        draft.replace(out)
        sync_dir(out.parent)
    finally:
        draft.unlink(missing_ok=True)
    return manifest


def _needed(order: Order, wanted: str) -> Sequence[Path]:
    """The folder's wheels that pip would install on such a device."""
    with tempfile.TemporaryDirectory(prefix="qflare-") as scratch:
        report = Path(scratch) / "report.json"
        _pip(
            ["install", "--dry-run", "--ignore-installed", "--target", str(Path(scratch) / "t")],
            ["--no-index", "--find-links", str(order.wheels), "--report", str(report)],
            [*order.target.options(), wanted],
        )
        found = json.loads(report.read_bytes())
    urls = [item["download_info"]["url"] for item in found["install"]]
    return [Path(unquote(urlsplit(url).path)) for url in urls]


def _needs(paths: Sequence[Path]) -> int:
    """Bytes on the device while it installs: the wheels, and what they become."""
    unpacked = 0
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked += sum(entry.file_size for entry in archive.infolist())
        except (OSError, zipfile.BadZipFile) as error:
            raise LocalFault(f"{path}: no wheel: {error}; get it again") from None
    packed = sum(path.stat().st_size for path in paths)
    return packed + int(_COMPILED * unpacked) + _MARGIN


def _pip(*parts: Sequence[str]) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-input"]
    (verb, *rest), *others = parts
    command = [sys.executable, "-m", "pip", verb, *options, *rest]
    for part in others:
        command += part
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PIP_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise LocalFault(f"pip {verb} took longer than {_PIP_S:.0f} s; try it again") from None
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise LocalFault(
            f"pip {verb}: {said[-600:]}; put the missing wheels there, or let --collect get them"
        )

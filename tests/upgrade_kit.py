"""Small releases, an owner who signs them, and a device that they are for."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.upgrade import staging
from edge_runtime.upgrade.apply import Device
from edge_runtime.upgrade.install import this_machine, this_python
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import sign
from qflare.host.bundle import describe_wheel, write_bundle
from qflare.names import FleetId
from qflare.release import Machine, ReleaseManifest

FLEET = FleetId.parse("yard")
OWNER = SigningKey.from_seed(DEFAULT, b"o" * 32)
STRANGER = SigningKey.from_seed(DEFAULT, b"s" * 32)

_DAEMON = """\
import sys
def main():
    if "--version" in sys.argv:
        print("qflare {version}")
        return 0
    {check}
    return 0
"""


def wheel(folder: Path, name: str, version: str, files: dict[str, str], needs: str = "") -> Path:
    """A pure wheel: a zip with metadata and the digests of what is in it."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: edge\n"
    contents = {
        **files,
        f"{info}/METADATA": metadata + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in contents.items():
            archive.writestr(inside, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
            lines.append(f"{inside},sha256={digest.rstrip(b'=').decode()},{len(text.encode())}")
        lines.append(f"{info}/RECORD,,")
        archive.writestr(f"{info}/RECORD", "\n".join(lines) + "\n")
    return path


def daemon_wheels(folder: Path, version: str, check: str = "pass") -> list[Path]:
    """A qflare with a daemon that can say its version, and one thing that it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    entry = "[console_scripts]\nqflare-edge = edge_runtime_tiny:main\n"
    files = {
        "edge_runtime_tiny.py": _DAEMON.format(version=version, check=check),
        f"qflare-{version}.dist-info/entry_points.txt": entry,
    }
    return [
        wheel(folder, "helper", "1.0", {"helper.py": "x = 1\n"}),
        wheel(folder, "qflare", version, files, "helper"),
    ]


def manifest_of(
    wheels: Sequence[Path],
    version: str,
    sequence: int,
    fleet: FleetId | None = FLEET,
    needs_bytes: int = 1,
) -> ReleaseManifest:
    return ReleaseManifest(
        fleet=fleet,
        version=version,
        sequence=sequence,
        python=this_python(),
        machine=Machine(this_machine()),
        wheels=tuple(describe_wheel(path) for path in wheels),
        needs_bytes=needs_bytes,
    )


def bundle_of(
    manifest: ReleaseManifest, wheels: Sequence[Path], owner: SigningKey = OWNER
) -> bytes:
    out = io.BytesIO()
    write_bundle(out, sign(manifest, owner), wheels)
    return out.getvalue()


@dataclass(frozen=True)
class Board:
    """A device's directories below one."""

    here: Path

    @property
    def opt(self) -> Path:
        return self.here / "opt"

    @property
    def state(self) -> Path:
        return self.here / "state"

    def device(self, config: Path | None = None) -> Device:
        self.state.mkdir(exist_ok=True)
        return Device(self.state, OWNER.verify_key, FLEET, config)

    def stage(self, data: bytes, name: str = "next.qflare") -> None:
        self.state.mkdir(exist_ok=True)
        with staging.staged_dir(self.state, make=True) as directory:
            assert directory is not None
            staging.put(directory, name, io.BytesIO(data))

    def staged(self) -> list[str]:
        with staging.staged_dir(self.state) as directory:
            return [] if directory is None else staging.names(directory)

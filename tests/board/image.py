"""An arm64 Debian 12 with systemd, as a board would have it, and QFLARE installed from wheels only.

What doesn't change with the project (the Debian, its kernel) is made once and kept under
~/.cache/qflare; the rest is made anew for each run, as docs/image-builder.md says.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_runtime.upgrade.install import UNUSED
from qflare import __version__
from tests.board.progress import say

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qflare" / "board-1"
)
TAR: Final = CACHE / "base.tar"
_FOREIGN: Final = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
PACKAGES: Final = (
    "python3,systemd,systemd-sysv,dbus,udev,kmod,iproute2,procps,"
    "linux-image-cloud-arm64,initramfs-tools,zstd"
)
TOOLS: Final = (
    *("mmdebstrap", "qemu-system-aarch64", "qemu-img", "mke2fs", "mkfs.vfat", "mcopy", "setpriv"),
)
_INITRD: Final = """\
mkdir -p "$1/etc/initramfs-tools/conf.d"
printf 'MODULES=list\\nCOMPRESS=zstd\\n' > "$1/etc/initramfs-tools/conf.d/qflare"
printf 'virtio_pci\\nvirtio_blk\\nvirtio_net\\nvirtio_rng\\next4\\n' \
> "$1/etc/initramfs-tools/modules"
"""
_GLIBC: Final = 36  # of Debian 12
_ENABLED: Final = {
    "qflare-edge.service": "multi-user",
    "qflare-provisiond.service": "multi-user",
    "qflare-model.socket": "sockets",
    "systemd-networkd.service": "multi-user",
}
# No profile names this machine's UART, so an image for it does.
_LINE: Final = """\
[Service]
ExecStart=
ExecStart=/opt/qflare/current/bin/qflare-provisiond --tty /dev/ttyS0 --from /boot/firmware/qflare
"""


@dataclass(frozen=True)
class Image:
    """A disk (raw, ext4 on the whole of it) and what boots it."""

    disk: Path
    kernel: Path
    initrd: Path
    mebibytes: float  # of what pip installed, without bytecode


def missing() -> str:
    """Why no board can be made here; empty if one can."""
    if os.geteuid() != 0:
        return "making a board's disk needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}; make test-board installs them"
    if not (TAR.exists() or _FOREIGN.exists()):
        return (
            f"{_FOREIGN} isn't there: the kernel isn't let run arm64 programs, which make a Debian"
        )
    return ""


def base() -> Path:
    """The Debian as a tar, from the cache or made now (minutes: its programs are emulated)."""
    if not TAR.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = CACHE / f"base.{os.getpid()}.tar"
        say("making a Debian 12 for arm64; this takes minutes")
        try:
            subprocess.run(
                [
                    "mmdebstrap", "--quiet", "--arch=arm64", "--variant=minbase",
                    f"--include={PACKAGES}", f"--essential-hook={_INITRD}", "bookworm", str(made),
                ],
                check=True,
            )  # fmt: skip
            made.rename(TAR)
        finally:
            made.unlink(missing_ok=True)
    return TAR


def wheels(site: Path) -> None:
    """Install `qflare[edge]` for aarch64 into `site`, from wheels only."""
    built = site.parent / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(built), str(ROOT)], check=True)
    (wheel,) = built.glob("qflare-*.whl")
    platforms = ["--platform", "manylinux2014_aarch64"]
    for minor in range(17, _GLIBC + 1):
        platforms += ["--platform", f"manylinux_2_{minor}_aarch64"]
    subprocess.run(
        [
            *pip, "install", "--root-user-action=ignore", "--no-compile", "--only-binary=:all:",
            *platforms,
            "--implementation", "cp", "--python-version", "3.11", "--target", str(site),
            f"{wheel}[edge]",
        ],
        check=True,
    )  # fmt: skip


def build(directory: Path) -> Image:
    """Make a disk with the project as it is now."""
    root, site = directory / "root", directory / "site"
    root.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        installed = pool.submit(wheels, site)
        # tarfile takes ten times as long.
        subprocess.run(["tar", "-xpf", str(base()), "-C", str(root)], check=True)
        installed.result()
    say("installing QFLARE into it")
    kernel, initrd = (next((root / "boot").glob(f"{name}-*")) for name in ("vmlinuz", "initrd.img"))
    shutil.copy(kernel, directory / "kernel")
    shutil.copy(initrd, directory / "initrd")
    (site / UNUSED).unlink()
    mebibytes = sum(f.stat().st_size for f in site.rglob("*") if f.is_file()) / 2**20
    version = root / "opt/qflare/versions" / __version__
    _make_venv(version, site)
    if sys.version_info[:2] == (3, 11):  # as the board's: its bytecode is this one's
        compiler = [sys.executable, "-m", "compileall", "-q", "-o", "2", "-s", str(root), "-p", "/"]
        subprocess.run([*compiler, "-j", "0", str(version / "lib")], check=False)
    (root / "opt/qflare/current").symlink_to(f"versions/{__version__}")
    _settle(root, version / "share/qflare/systemd")
    disk = directory / "disk.raw"
    make = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), "2G"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    return Image(disk, directory / "kernel", directory / "initrd", mebibytes)


def _make_venv(version: Path, site: Path) -> None:
    """What `python3 -m venv` and pip would make there, without emulated minutes."""
    library = version / "lib/python3.11/site-packages"
    library.parent.mkdir(parents=True)
    site.rename(library)
    (library / "share").rename(version / "share")
    (version / "pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n"
    )
    (version / "bin").mkdir()
    (version / "bin/python").symlink_to("/usr/bin/python3")
    (version / "bin/python3").symlink_to("python")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, target in project["scripts"].items():
        module, function = target.split(":")
        script = version / "bin" / name
        script.write_text(
            f"#!/opt/qflare/current/bin/python\nimport sys\nfrom {module} import {function}\n"
            f"sys.exit({function}())\n"
        )
        script.chmod(0o755)


def _settle(root: Path, share: Path) -> None:
    """The units, a root without a password, a network that comes up by itself, a boot partition."""
    units = root / "etc/systemd/system"
    for unit in share.glob("*.*"):
        if unit.is_file():
            shutil.copy(unit, units)
    for kind in ("sysusers.d", "tmpfiles.d"):
        shutil.copy(share / kind / "qflare.conf", root / "usr/lib" / kind)
    for unit, target in _ENABLED.items():
        wants = units / f"{target}.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        place = "/etc" if unit.startswith("qflare") else "/lib"
        (wants / unit).symlink_to(f"{place}/systemd/system/{unit}")
    line = units / "qflare-provisiond.service.d"
    line.mkdir()
    (line / "line.conf").write_text(_LINE)
    shadow = root / "etc/shadow"
    lines = shadow.read_text().splitlines()
    shadow.write_text("\n".join("root::1::::::" if x.startswith("root:") else x for x in lines))
    (root / "etc/hostname").write_text("board\n")
    (root / "etc/systemd/network/10-all.network").write_text(
        "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"
    )
    (root / "boot/firmware").mkdir()
    (root / "etc/fstab").write_text("/dev/vdb /boot/firmware vfat defaults,nofail 0 0\n")

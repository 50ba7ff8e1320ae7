"""A virtual machine that boots measured: OVMF, a TPM in software, a kernel and its initrd.

It gives the firmware's event log as Linux has it, and the PCRs as the kernel reads them.
"""

import os
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest

from tests.platforms.swtpm import SoftwareChip

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc p /proc
/bin/busybox mount -t sysfs s /sys
/bin/busybox mount -t securityfs s /sys/kernel/security
for n in 0 1 2 3 4 5 6 7 8 9; do
  echo "@pcr $n $(/bin/busybox cat /sys/class/tpm/tpm0/pcr-sha256/$n)"
done
echo "@log $(/bin/busybox base64 -w0 /sys/kernel/security/tpm0/binary_bios_measurements)"
/bin/busybox poweroff -f
"""
SECONDS = 240
_OVMF = ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")


def kernel() -> Path:
    """A Debian kernel: the one that QFLARE_TEST_KERNEL names, or the newest in /boot."""
    named = os.environ.get("QFLARE_TEST_KERNEL")
    found = [Path(named)] if named else sorted(Path("/boot").glob("vmlinuz-*"))
    if not found or not found[-1].is_file():
        pytest.skip("wants a kernel in /boot, or QFLARE_TEST_KERNEL to name one")
    return found[-1]


def _entry(name: str, data: bytes, mode: int) -> bytes:
    """One file of an initrd (cpio, the new ASCII form)."""
    fields = (7, mode, 0, 0, 1, 0, len(data), 0, 0, 5, 1, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % one for one in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initrd(init: str = INIT) -> bytes:
    """BusyBox and one script."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("wants busybox; install the package busybox-static")
    made = b"".join(_entry(name, b"", 0o040755) for name in ("bin", "proc", "sys", "dev"))
    made += _entry("dev/console", b"", 0o020600)
    made += _entry("bin/busybox", Path(busybox).read_bytes(), 0o100755)
    made += _entry("init", init.encode(), 0o100755)
    return made + _entry("TRAILER!!!", b"", 0)


def boot(
    chip: SoftwareChip, folder: Path, ramdisk: bytes, command_line: str = ""
) -> tuple[bytes, dict[int, bytes]]:
    """Boot once, by emulation; the event log, and the registers as the kernel read them."""
    qemu, firmware = shutil.which("qemu-system-x86_64"), Path("/usr/share/OVMF")
    if qemu is None or not all((firmware / part).is_file() for part in _OVMF):
        pytest.skip("wants QEMU and OVMF; install the packages qemu-system-x86 and ovmf")
    folder.mkdir()
    shutil.copy(firmware / _OVMF[1], folder / "vars")
    (folder / "initrd").write_bytes(ramdisk)
    chip.off()
    chip.on(for_qemu=True)
    drive = "if=pflash,format=raw,unit="
    command = [
        qemu, "-machine", "q35", "-accel", "tcg", "-cpu", "qemu64", "-m", "512", "-nographic",
        "-no-reboot", "-net", "none",
        "-drive", f"{drive}0,readonly=on,file={firmware / _OVMF[0]}",
        "-drive", f"{drive}1,file={folder / 'vars'}",
        "-chardev", f"socket,id=chrtpm,path={chip.socket}.ctrl",
        "-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-tis,tpmdev=tpm0",
        "-kernel", str(kernel()), "-initrd", str(folder / "initrd"),
        "-append", f"console=ttyS0 panic=-1 quiet {command_line}".strip(),
        "-serial", f"file:{folder / 'console'}", "-monitor", "none",
    ]  # fmt: skip
    with (folder / "qemu").open("wb") as out:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            machine.wait(SECONDS)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.wait(10)
    shown = (folder / "console").read_text(errors="replace")
    said = [line[1:].split() for line in shown.splitlines() if line.startswith("@")]
    assert said, shown[-2000:] + (folder / "qemu").read_text(errors="replace")
    log = next(b64decode(words[1]) for words in said if words[0] == "log")
    return log, {int(w[1]): bytes.fromhex(w[2]) for w in said if w[0] == "pcr"}

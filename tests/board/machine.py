"""An emulated board: QEMU without KVM, its console, a second serial line, and its power switch."""

import contextlib
import itertools
import os
import re
import select
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.board.image import Image
from tests.board.progress import say

BOOT_S = 400.0  # far above what it takes, for a machine that is busy with other things
_PROMPT = "qflare-board# "
_BOOT_KIB = 64 * 1024


class Broken(AssertionError):
    """The board didn't do what was waited for; the message has the end of its console."""


class Board:
    """One board and its disks, which outlive power cuts. Commands run as root on the console.

    `files` are put on its boot partition, which is FAT, as a card's.
    """

    def __init__(self, image: Image, directory: Path, files: Path, memory_mb: int = 768) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._image, self._memory = image, memory_mb
        self._disk, self._boot = directory / "disk.qcow2", directory / "boot.vfat"
        self._numbers = itertools.count()
        self.log = b""
        self._seen = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._console: socket.socket | None = None
        self._has_shell = False
        self.line = directory / "line"  # this side of the board's /dev/ttyS0, as udev would name it
        for command in (
            (
                "qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image.disk), "-F", "raw",
                str(self._disk),
            ),
            ("mkfs.vfat", "-C", str(self._boot), str(_BOOT_KIB)),
            ("mcopy", "-i", str(self._boot), "-s", *map(str, files.iterdir()), "::"),
        ):  # fmt: skip
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def power_on(self) -> None:
        """Switch it on, and wait for nothing."""
        path = self.directory / f"console-{next(self._numbers)}.sock"
        # The socket's path is longer than the kernel takes when the directory lies deep.
        console = Path(os.path.relpath(path))
        # What the board didn't flush may be lost with QEMU: a qcow2's new clusters are, whose place
        # it only remembers until then.
        disks = []
        for i, (file, form) in enumerate(((self._disk, "qcow2"), (self._boot, "raw"))):
            disks += ["-drive", f"file={file},format={form},if=none,id=d{i},cache=writeback"]
            disks += ["-device", f"virtio-blk-pci,drive=d{i}"]
        command = [
            "setpriv", "--pdeathsig", "KILL",  # however the tests end, the board does
            "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72",
            "-accel", "tcg,thread=multi", "-smp", "2", "-m", str(self._memory),
            "-display", "none", "-nodefaults", "-no-reboot",
            "-chardev", f"socket,id=con,path={console},server=on,wait=off", "-serial",
            "chardev:con",
            "-chardev", "pty,id=line", "-device", "pci-serial,chardev=line",
            "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=",
            "-device", "virtio-rng-pci",
            "-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd), *disks,
            "-append", "console=ttyAMA0 panic=-1 root=/dev/vda rw net.ifnames=0 quiet",
        ]  # fmt: skip
        said = (self.directory / "qemu.log").open("wb")
        self._process = subprocess.Popen(command, stdout=said, stderr=said)
        said.close()
        self._console = self._connect(console)
        self._has_shell, self._seen = False, len(self.log)
        name = self.line.with_suffix(".new")
        name.symlink_to(self._until_file(r"/dev/pts/\d+"))
        name.rename(self.line)

    def log_in(self, within_s: float = BOOT_S) -> None:
        """Wait for the console, and for a shell on it."""
        self._expect("board login: ", within_s)
        self._type("root\n")
        self._expect("# ", within_s)
        # Not bash, which decorates what is typed; and the prompt in two pieces, for it is echoed.
        first, second = _PROMPT.split("-")
        self._type(f"stty -echo cols 500; dmesg -n 1; exec env PS1='{first}''-{second}' PS2= sh\n")
        self._expect(_PROMPT, within_s)
        self._has_shell = True

    def run(self, command: str, within_s: float = 300.0, check: bool = True) -> str:
        """The command's output; Broken if it fails (unless `check` is False) or takes too long."""
        if not self._has_shell:
            self.log_in()
        mark = f"--{next(self._numbers)}--"
        self._type(f"{{ {command}\n}} 2>&1 </dev/null; echo {mark}$?\n")
        text = self._expect(rf"{mark}(\d+)\r?\n", within_s, regular=True)
        self._expect(_PROMPT, within_s)
        output, code = re.split(rf"{mark}(\d+)\r?\n", text, maxsplit=1)[:2]
        if check and code != "0":
            raise Broken(f"{command!r} ended with {code}:\n{output[-3000:]}")
        return output.replace("\r\n", "\n").strip()

    def until(self, command: str, want: str, within_s: float = 300.0) -> str:
        """Run a command again and again until its output matches."""
        end = time.monotonic() + within_s
        while True:
            output = self.run(command, check=False)
            if re.search(want, output):
                return output
            if time.monotonic() > end:
                raise Broken(f"{command!r} never said {want!r}; at last:\n{output[-3000:]}")
            time.sleep(1)

    def write(self, path: str, text: str) -> None:
        """A small file on the board."""
        self.run(f"printf %s {shlex.quote(text)} > {path}")

    def journal(self, lines: int = 80) -> str:
        """The end of what its programs said, whatever state it is in."""
        try:
            if not self._has_shell:
                self.log_in(60)
            return self.run(f"journalctl -b --no-pager -o short-monotonic -n {lines}", 60)
        except Broken as why:
            return str(why)

    def cut_power(self) -> None:
        """Gone at once: what the board hadn't flushed is lost."""
        self.line.unlink(missing_ok=True)  # its number may be another terminal's in a moment
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._console is not None:
            self._console.close()
        self._process = self._console = None
        self._has_shell = False

    def _connect(self, path: Path) -> socket.socket:
        end = time.monotonic() + 30
        while True:
            made = socket.socket(socket.AF_UNIX)
            try:
                made.connect(str(path))
                return made
            except OSError:
                made.close()
                if time.monotonic() > end or (self._process and self._process.poll() is not None):
                    log = (self.directory / "qemu.log").read_text(errors="replace")
                    raise Broken(f"QEMU doesn't start:\n{log}") from None
                time.sleep(0.1)

    def _until_file(self, pattern: str) -> str:
        for _ in range(100):
            found = re.search(pattern, (self.directory / "qemu.log").read_text(errors="replace"))
            if found:
                return found.group()
            time.sleep(0.1)
        raise Broken("QEMU named no pseudo-terminal")

    def _type(self, text: str) -> None:
        if self._console is None:
            raise Broken("the board has no power")
        # Slower than a person pastes: the console's buffer is 4 kB and drops what is beyond.
        for start in range(0, len(text), 256):
            self._console.sendall(text[start : start + 256].encode())
            time.sleep(0.02)

    def _expect(self, want: str, within_s: float, regular: bool = False) -> str:
        """Read the console until `want`; return what came before it and with it."""
        pattern = re.compile((want if regular else re.escape(want)).encode())
        end = time.monotonic() + within_s
        while True:
            found = pattern.search(self.log, self._seen)
            if found:
                text = self.log[self._seen : found.end()].decode(errors="replace")
                self._seen = found.end()
                return text
            if time.monotonic() > end or not self._read(1.0):
                tail = self.log[-3000:].decode(errors="replace")
                raise Broken(f"waited for {want!r} on the console; its end:\n{tail}")

    def _read(self, seconds: float) -> bool:
        """Take what the console says; False when the board is gone."""
        if self._console is None:
            return False
        ready, _, _ = select.select([self._console], [], [], seconds)
        if ready:
            with contextlib.suppress(OSError):
                data = self._console.recv(65536)
                self.log += data
                return bool(data)
            return False
        return self._process is not None and self._process.poll() is None


@contextlib.contextmanager
def powered(board: Board) -> Iterator[Board]:
    """On for the block, and off after it whatever happens; the journal is shown if it fails."""
    board.power_on()
    try:
        yield board
    except BaseException as error:
        say(f"failed: {type(error).__name__}; the end of the board's journal:\n{board.journal()}")
        raise
    finally:
        board.cut_power()

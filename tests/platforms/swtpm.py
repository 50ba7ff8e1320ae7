"""A TPM 2.0 in software (swtpm), with an EK certificate of its own authority, made ready by the
very commands that docs/enclave-hardware.md gives.
"""

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

EK_CERTIFICATE = "0x1c00002"  # where the TCG has the RSA key's certificate
_PROGRAMS = {
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
    "certtool": "gnutls-bin",
    "tpm2_createek": "tpm2-tools",
}
_RETRY = bytes.fromhex("00000922")
CONFIGURATION = """create_certs_tool = {localca}
create_certs_tool_config = {folder}/localca.conf
create_certs_tool_options = {folder}/options
"""
AUTHORITY = """statedir = {folder}/ca
signingkey = {folder}/ca/signkey.pem
issuercert = {folder}/ca/issuercert.pem
certserial = {folder}/ca/certserial
"""
OPTIONS = """--tpm-manufacturer id:00001014
--tpm-model swtpm
--tpm-version 1
--platform-manufacturer Software
--platform-version 1
--platform-model Software
"""


def documented(after: str) -> list[list[str]]:
    """The commands of the first block behind these words in docs/enclave-hardware.md."""
    page = (Path(__file__).parents[2] / "docs" / "enclave-hardware.md").read_text()
    block = page[page.index(after) :].split("```")[1].removeprefix("sh\n")
    found = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert found
    return [words for words in found if words]


class SoftwareChip:
    """One TPM; it can be switched off and on."""

    def __init__(self, folder: Path, certified: bool = False) -> None:
        for program, package in _PROGRAMS.items():
            if shutil.which(program) is None:
                pytest.skip(f"wants {program}; install the package {package}")
        (folder / "state").mkdir(parents=True)
        self.folder, self.process = folder, None
        self.socket = folder / "socket"
        self.authority = folder / "ca"
        if certified:
            self._certify()
        self.on()

    def _certify(self) -> None:
        """Make an endorsement key, and a certificate for it by an authority of its own."""
        tool, folder = shutil.which("swtpm_localca") or "/usr/bin/swtpm_localca", self.folder
        self.authority.mkdir()
        (folder / "setup.conf").write_text(CONFIGURATION.format(localca=tool, folder=folder))
        (folder / "localca.conf").write_text(AUTHORITY.format(folder=folder))
        (folder / "options").write_text(OPTIONS)
        command = ["swtpm_setup", "--tpm2", "--tpmstate", str(folder / "state"), "--overwrite"]
        command += ["--config", str(folder / "setup.conf"), "--create-ek-cert"]
        command += ["--pcr-banks", "sha256", "--logfile", str(folder / "setup.log")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr + self._log()

    def _log(self) -> str:
        path = self.folder / "setup.log"
        return path.read_text() if path.exists() else ""

    def on(self, for_qemu: bool = False) -> None:
        """Start it, with its registers at zero; QEMU brings the connection for commands itself."""
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder / 'state'}"]
        command += ["--ctrl", f"type=unixio,path={self.socket}.ctrl"]
        if not for_qemu:
            command += ["--server", f"type=unixio,path={self.socket}"]
            command += ["--flags", "not-need-init,startup-clear"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        made, until = Path(f"{self.socket}.ctrl"), time.monotonic() + 20
        while (
            not (made.exists() and (for_qemu or self.socket.exists())) and time.monotonic() < until
        ):
            time.sleep(0.02)

    def off(self) -> None:
        """Cut its power."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
        for path in (self.socket, Path(f"{self.socket}.ctrl")):
            path.unlink(missing_ok=True)

    def tool(self, *words: str) -> str:
        """Run one of tpm2-tools in this folder; objects are flushed, as the kernel would."""
        environment = os.environ | {"TPM2TOOLS_TCTI": f"swtpm:path={self.socket}"}
        out = ""
        for command in (words, ("tpm2_flushcontext", "-t")):
            done = subprocess.run(
                command, env=environment, cwd=self.folder, capture_output=True, text=True,
                timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            out = out or done.stdout
        return out

    def prepare(self, kind: str = "ecc", scheme: str = "ecdsa") -> None:
        """An endorsement key, an attestation key and a counter, by the documented commands."""
        for words in documented("Once, as root"):
            if EK_CERTIFICATE in words and not self.authority.exists():
                continue
            changed = {"ecc": kind, "ecdsa": scheme}
            self.tool(*(changed.get(word, word) for word in words))

    @contextmanager
    def device(self) -> Iterator[int]:
        """A descriptor that is to the caller what /dev/tpmrm0 is.

        The kernel asks again when the TPM says that it wants to be asked again, and so does this.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        chip = socket.socket(socket.AF_UNIX)
        chip.connect(str(self.socket))

        def serve() -> None:
            while command := theirs.recv(4096):
                while True:
                    chip.sendall(command)
                    reply = chip.recv(4096)
                    if reply[6:10] != _RETRY:
                        break
                theirs.sendall(reply)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield ours.fileno()
        finally:
            ours.close()
            thread.join(10)
            theirs.close()
            chip.close()


@contextmanager
def software_chip(folder: Path, certified: bool = False) -> Iterator[SoftwareChip]:
    """A TPM for as long as a test wants it."""
    chip = SoftwareChip(folder, certified)
    try:
        yield chip
    finally:
        chip.off()

"""Keys that only this machine's TPM opens, and only in a state that the owner approved.

systemd-creds(1) does the sealing: it is part of Debian 12 and later, speaks to the TPM over an
encrypted session, binds the name, and its file is one that `LoadCredentialEncrypted=` opens. The
secret goes through pipes. Its policy is TPM2_PolicyAuthorize: an approval is enough for a new
state, and nothing is sealed anew.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault
from qflare.host.files import read_bounded
from qflare.host.keystore import tpm_device
from qflare.host.keystore.form import CREDENTIAL_ID, Kind, unbase64
from qflare.host.keystore.pcrs import (
    APPROVALS_MAX,
    PEM_MAX,
    approver_public,
    parse_approvals,
)
from qflare.host.redact import clean_text

_PROGRAM: Final = "systemd-creds"
_TIMEOUT_S: Final = 60.0

# What systemd-creds and tpm2-tss say, and what it means to the person who reads it.
_MEANINGS: Final = (
    ("integrity check failed", "it was sealed by another TPM, or this one was cleared since"),
    (
        "Couldn't find signature for this PCR bank",
        "nobody approved the state that this machine is in",
    ),
    ("signature is not valid", "the approval of this machine's state was signed by another key"),
    ("does not match filename", "it was sealed under another name; give it that name"),
    ("Failed to initialize TCTI", "the TPM doesn't answer"),
    ("incorrect key", "the file is damaged"),
    ("out of range", "the file is damaged"),
    ("key size in header", "the file is damaged"),
    ("file too short", "the file is damaged"),
)


class InTpm:
    """Seals and opens by the TPM `device`, for states over `numbers` that `approver` approved."""

    kind = Kind.TPM

    def __init__(
        self, device: str, numbers: tuple[int, ...], approver: Path, approvals: Path
    ) -> None:
        self._device, self._numbers = device, numbers
        self._approver, self._approvals = approver, approvals

    def seal(self, name: str, secret: bytes) -> bytes:
        """A credential; raise LocalFault without a TPM, or if this state isn't approved."""
        approver_public(_read(self._approver, PEM_MAX))
        pcrs = "+".join(map(str, self._numbers))
        sealed = self._run(
            "encrypt",
            name,
            secret,
            "--with-key=tpm2-with-public-key",
            f"--tpm2-public-key={self._approver}",
            f"--tpm2-public-key-pcrs={pcrs}",
            "--tpm2-pcrs=",
        )
        try:
            right = unbase64(b"".join(sealed.split()).decode("ascii")).startswith(CREDENTIAL_ID)
        except ValueError:
            right = False
        if not right:
            raise LocalFault(f"{_PROGRAM} sealed to something else than a TPM and an approver")
        return sealed

    def open(self, name: str, data: bytes) -> bytes:
        """The secret; raise LocalFault for another TPM, state, approver, name, or damage."""
        parse_approvals(_read(self._approvals, APPROVALS_MAX))
        return self._run("decrypt", name, data, f"--tpm2-signature={self._approvals.resolve()}")

    def _run(self, verb: str, name: str, given: bytes, *options: str) -> bytes:
        words = [_PROGRAM, verb, f"--name={name}", f"--tpm2-device={self._device}", *options]
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        environ["SYSTEMD_LOG_LEVEL"] = "info"
        with self._places():
            try:
                done = subprocess.run(
                    [*words, "-", "-"],
                    input=given,
                    capture_output=True,
                    env=environ,
                    timeout=_TIMEOUT_S,
                    check=False,
                )
            except FileNotFoundError:
                raise LocalFault(
                    f"keys in a TPM want {_PROGRAM} (systemd 252 or later, built with TPM 2.0)"
                ) from None
            except subprocess.TimeoutExpired:
                raise LocalFault(f"{self._device}: the TPM didn't answer in time") from None
        if done.returncode:
            raise LocalFault(_meaning(done.stderr.decode("utf-8", "replace"), self._device))
        return done.stdout

    @contextmanager
    def _places(self) -> Iterator[None]:
        """Leave no session behind: systemd 252 does, and a TPM has room for three.

        Behind /dev/tpmrm0 the kernel sees to it.
        """
        if tpm_device.shares(self._device):
            yield
            return
        before = tpm_device.volatile(self._device)
        try:
            yield
        finally:
            tpm_device.flush(self._device, tpm_device.volatile(self._device) - before)


def _meaning(said: str, device: str) -> str:
    for words, meaning in _MEANINGS:
        if words in said:
            return f"{meaning} ({device}); see docs/keys.md, “When a key doesn't open”"
    lines = [line for line in said.splitlines() if line.strip()]
    return f"{_PROGRAM}: {clean_text(lines[-1]) if lines else 'failed without a word'} ({device})"


def _read(path: Path, ceiling: int) -> bytes:
    try:
        return read_bounded(path, ceiling)
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}; put it there, or correct [keys.tpm]") from None

"""What keeps keys in tests: a TPM 2.0 in software (swtpm), tokens in software (SoftHSM 2)."""

import hashlib
import os
import secrets
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from qflare.host.keystore import pcrs, tpm_device
from qflare.host.keystore.form import Kind
from qflare.host.keystore.passphrase import UnderPassphrase
from qflare.host.keystore.store import AsIs, KeyStore, Sealer
from qflare.host.typed import encode

PASSPHRASE = b"six words drawn by dice"
NAME = "owner.seed"
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so")
PCRS = (7, 11)


def quick(passphrase: bytes = PASSPHRASE) -> UnderPassphrase:
    """Scrypt at the least cost that is taken."""
    return UnderPassphrase(lambda: passphrase, log_n=14)


def store_of(directory: Path, *sealers: Sealer) -> KeyStore:
    """A store in a directory that opens plain keys and these, and keeps new ones by the last."""
    by_kind: dict[Kind, Sealer] = {Kind.PLAIN: AsIs()}
    by_kind |= {sealer.kind: sealer for sealer in sealers}
    return KeyStore(directory, by_kind.__getitem__, (AsIs(), *sealers)[-1])


def plain(directory: Path, name: str = NAME, seed: bytes | None = None) -> bytes:
    """Lay a plain seed there; it."""
    seed = seed or secrets.token_bytes(32)
    (directory / name).write_bytes(seed)
    (directory / name).chmod(0o600)
    return seed


# --- TPM


@contextmanager
def running_tpm(folder: Path) -> Iterator[str]:
    """A new TPM; its name as tpm2-tss knows it."""
    for program, package in (("swtpm", "swtpm"), ("systemd-creds", "systemd")):
        if shutil.which(program) is None:
            pytest.skip(f"wants {program}; install the package {package}")
    folder.mkdir()
    path = folder / "socket"
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}"]
    command += ["--server", f"type=unixio,path={path}", "--flags", "not-need-init,startup-clear"]
    command += ["--ctrl", f"type=unixio,path={path}.ctrl"]
    # Left without a connection it waits for the next one; it ends with its process only.
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.02)
        yield f"swtpm:path={path}"
    finally:
        process.terminate()
        process.wait(10)


def extend(device: str, number: int, what: bytes) -> None:
    """Measure something into a PCR: TPM2_PCR_Extend, with an empty password."""
    digest = hashlib.sha256(what).digest()
    auth = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
    body = struct.pack(">II", number, len(auth)) + auth + struct.pack(">IH", 1, 0x000B) + digest
    sent = struct.pack(">HII", 0x8002, 10 + len(body), 0x182) + body
    reply = tpm_device._exchange(device, sent)
    assert reply[6:10] == bytes(4), reply.hex()


@dataclass
class Approver:
    """Who approves states of machines, and the files of a machine that trusts him."""

    folder: Path
    key: rsa.RSAPrivateKey

    @classmethod
    def make(cls, folder: Path) -> "Approver":
        folder.mkdir(exist_ok=True)
        made = cls(folder, rsa.generate_private_key(65537, 2048))
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = made.key.public_key().public_bytes(serialization.Encoding.PEM, form)
        made.public.write_bytes(pem)
        made.approvals.write_bytes(encode(pcrs.Approvals()))
        return made

    @property
    def public(self) -> Path:
        return self.folder / "approver.pem"

    @property
    def approvals(self) -> Path:
        return self.folder / "approvals.json"

    def approve(self, device: str, key: rsa.RSAPrivateKey | None = None) -> None:
        """Approve the state that the machine is in, by his key or by another one."""
        state = tpm_device.read_state(device, PCRS)
        before = pcrs.parse_approvals(self.approvals.read_bytes())
        self.approvals.write_bytes(encode(pcrs.approve(before, state, key or self.key)))


# --- tokens


@dataclass(frozen=True)
class Tokens:
    """Two tokens, `one` and `two`, with the PIN 5678."""

    module: Path
    pin: Callable[[], bytes] = lambda: b"5678"


@contextmanager
def softhsm(folder: Path) -> Iterator[Tokens]:
    """Tokens of this process's own; SoftHSM reads where they are once in a process's life."""
    found = [Path(path) for path in MODULES if Path(path).exists()]
    if not found or shutil.which("softhsm2-util") is None:
        pytest.skip("wants SoftHSM 2; install the package softhsm2")
    (folder / "tokens").mkdir(parents=True)
    (folder / "conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "conf")
    for label in ("one", "two"):
        words = ["--init-token", "--free", "--label", label, "--so-pin", "1234", "--pin", "5678"]
        subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)
    yield Tokens(found[0])

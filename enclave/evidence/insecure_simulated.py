"""Evidence that proves nothing, for simulations: the same path as real evidence, and no hardware.

The "platform key" is a file beside the state. Whoever reads both reads every secret of the
enclave; whoever has the reference value can make this evidence without an enclave.
"""

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qflare.faults import LocalFault
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers.simulated import INSECURE_SIMULATED, SimulatedReport

KEY_FILE = "insecure_platform_key"
_NONCE = 12
_SEALED_MAX = 2**31 - 1  # the library's limit for one message


class InsecureSimulated:
    """An EvidenceProvider for simulations."""

    name = INSECURE_SIMULATED

    def __init__(self, measurement: Digest, platform_key: bytes) -> None:
        self.measurement = measurement
        self._aead = AESGCM(platform_key)
        self._label = b"qflare/1/enclave-state\0" + measurement.raw

    @classmethod
    def load(cls, state_dir: Path, measurement: Digest) -> Self:
        """Read the platform key in `state_dir`, or make one there (0600)."""
        path = state_dir / KEY_FILE
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            with suppress(FileNotFoundError):
                temporary.unlink()
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        key = path.read_bytes()
        if len(key) != 32:
            raise LocalFault(f"{path} is no platform key; remove it together with the state")
        return cls(measurement, key)

    def quote(self, report_data: bytes) -> Evidence:
        return Evidence(self.name, SimulatedReport(self.measurement, report_data).to_bytes())

    def seal(self, secret: bytes) -> bytes:
        if len(secret) > _SEALED_MAX:
            raise LocalFault("the state is larger than 2 GiB; use a smaller model")
        nonce = token_bytes(_NONCE)
        return nonce + self._aead.encrypt(nonce, secret, self._label)

    def unseal(self, sealed: bytes) -> bytes:
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._label)
        except (InvalidTag, ValueError):
            raise LocalFault(
                "the sealed state was written by other code or on another platform; put that back, "
                "or move the state away and let the coordinator present its last receipt"
            ) from None

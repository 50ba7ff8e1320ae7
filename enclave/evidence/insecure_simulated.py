"""Evidence that proves nothing, for simulations: the same path as real evidence, and no hardware.

The "platform key" is a file beside the state. Whoever reads both reads every secret of the
enclave; whoever has the reference value can make this evidence without an enclave.
"""

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes
from typing import Self

from enclave.evidence.sealing import Sealing
from qflare.faults import LocalFault
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers.simulated import INSECURE_SIMULATED, SimulatedReport

KEY_FILE = "insecure_platform_key"


class InsecureSimulated(Sealing):
    """An EvidenceProvider for simulations."""

    name = INSECURE_SIMULATED
    keeps_rounds = True  # without a counter: it promises nothing

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

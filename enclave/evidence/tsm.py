"""`tdx` and `sev_snp`: a confidential virtual machine, asked through Linux' configfs (6.7).

The ABI is the kernel's Documentation/ABI/testing/configfs-tsm-report. One entry below the root is
made once and kept, so that root can prepare it for a user without rights. AMD's certificates, which
the kernel may have in `auxblob`, are the coordinator's to add, with the revocations that it lacks.

Such a machine has no key of its own that outlives it, so nothing is kept: `seal` gives no bytes,
the state file is empty, and an enclave that is started again begins without memory, abandons its
round, and lets the coordinator present the last receipt. No secret is ever on a disk.
"""

from pathlib import Path

from qflare.faults import LocalFault, PeerFault
from qflare.messages import Evidence
from qflare.verifiers.quote import quote_measurement, snp_measurement, trim

ROOT = Path("/sys/kernel/config/tsm/report")
ENTRY = "qflare-enclave"
_NAMES = {"tdx_guest": "tdx", "sev_guest": "sev_snp"}  # the kernel's and ours


class Tsm:
    """An EvidenceProvider in a confidential virtual machine."""

    def __init__(self, root: Path = ROOT) -> None:
        """Ask for evidence once; raise LocalFault where there is none."""
        self._entry = root / ENTRY
        try:
            self._entry.mkdir(exist_ok=True)
            self.name = _NAMES[(self._entry / "provider").read_text().strip()]
        except (OSError, KeyError) as error:
            raise LocalFault(f"no evidence in {root} ({error}): docs/enclave-hardware.md") from None
        body = self.quote(bytes(64)).body
        measurement = quote_measurement if self.name == "tdx" else snp_measurement
        self.measurement = measurement(body)

    def quote(self, report_data: bytes) -> Evidence:
        try:
            before = self._generation()
            (self._entry / "inblob").write_bytes(report_data)
            body = (self._entry / "outblob").read_bytes()
            written = self._generation() - before
            evidence = Evidence(self.name, trim(body) if self.name == "tdx" else body)
        except (OSError, PeerFault) as error:
            raise LocalFault(f"the platform gives no evidence ({error}); look at dmesg") from None
        if written != 1:
            raise LocalFault(f"another process asks for evidence by {self._entry}; stop it")
        return evidence

    def _generation(self) -> int:
        """How often the entry was written to, by whomever."""
        return int((self._entry / "generation").read_text())

    def seal(self, _: bytes) -> bytes:
        return b""

    def unseal(self, _: bytes) -> bytes:
        raise LocalFault("a confidential machine keeps no state; move the state file away")

"""`tdx` and `sev_snp`: a confidential virtual machine, asked through Linux' configfs (6.7).

The ABI is the kernel's Documentation/ABI/testing/configfs-tsm-report. One entry below the root is
made once and kept, so that root can prepare it for a user without rights.

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
TDX, SEV_SNP = "tdx", "sev_snp"
_PROVIDERS = {"tdx_guest": TDX, "sev_guest": SEV_SNP}  # the kernel's names and ours


class Tsm:
    """An EvidenceProvider in a confidential virtual machine."""

    def __init__(self, root: Path = ROOT, privilege_level: int | None = None) -> None:
        """Ask for evidence once; raise LocalFault where there is none.

        `privilege_level` is for SEV-SNP below a paravisor; devices accept evidence of level 0 only.
        """
        self._entry, self._level = root / ENTRY, privilege_level
        try:
            self._entry.mkdir(exist_ok=True)
            kernels = (self._entry / "provider").read_text().strip()
        except OSError as error:
            raise LocalFault(
                f"no evidence in {root} ({error}); see docs/enclave-hardware.md"
            ) from None
        if kernels not in _PROVIDERS:
            raise LocalFault(f"evidence of {kernels[:40]!r} is not known; want {list(_PROVIDERS)}")
        self.name = _PROVIDERS[kernels]
        body = self.quote(bytes(64)).body
        self.measurement = quote_measurement(body) if self.name == TDX else snp_measurement(body)

    def quote(self, report_data: bytes) -> Evidence:
        try:
            before = self._generation()
            if self._level is not None:
                (self._entry / "privlevel").write_text(str(self._level))
            (self._entry / "inblob").write_bytes(report_data)
            body = (self._entry / "outblob").read_bytes()
            evidence = Evidence(self.name, *self._trimmed(body))
            writes = self._generation() - before
        except (OSError, PeerFault) as error:
            raise LocalFault(f"the platform gives no evidence ({error}); look at dmesg") from None
        if writes != 1 + (self._level is not None):
            raise LocalFault(f"another process asks for evidence by {self._entry}; stop it")
        return evidence

    def _generation(self) -> int:
        """How often the entry was written to, by whomever."""
        return int((self._entry / "generation").read_text())

    def _trimmed(self, body: bytes) -> tuple[bytes, bytes]:
        """The evidence, and AMD's certificates where the host gives them."""
        if self.name == TDX:
            return trim(body), b""
        try:
            return body, (self._entry / "auxblob").read_bytes()
        except OSError:  # the coordinator has them
            return body, b""

    def seal(self, secret: bytes) -> bytes:
        del secret
        return b""

    def unseal(self, sealed: bytes) -> bytes:
        del sealed
        raise LocalFault("a confidential machine keeps no state; move the state file away")

"""`sgx`: an Intel SGX enclave, asked through Gramine's pseudo-files.

Gramine's "Attestation and Secret Provisioning": what is written to `user_report_data` is in the
quote that is read next, and `keys/_sgx_mrenclave` is the processor's key for this code alone. That
key has 128 bits; a newer release has another one, and starts without memory.
"""

from pathlib import Path

from enclave.evidence.sealing import Sealing
from qflare.faults import LocalFault, PeerFault
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers.quote import quote_measurement, trim

ROOT = Path("/dev/attestation")
SGX = "sgx"


class Gramine(Sealing):
    """An EvidenceProvider inside an SGX enclave."""

    name = SGX

    def __init__(self, root: Path = ROOT) -> None:
        """Ask for evidence and the key once; raise LocalFault where there is none."""
        self._root = root
        measurement = quote_measurement(self.quote(bytes(64)).body)
        try:
            key = (root / "keys" / "_sgx_mrenclave").read_bytes()
        except OSError as error:
            raise LocalFault(f"no key for this code ({error}); want Gramine 1.5") from None
        super().__init__(measurement, Digest.of(b"qflare/1/sgx-seal\0", key).raw)

    def quote(self, report_data: bytes) -> Evidence:
        try:
            (self._root / "user_report_data").write_bytes(report_data)
            return Evidence(self.name, trim((self._root / "quote").read_bytes()))
        except (OSError, PeerFault) as error:
            raise LocalFault(f"no SGX quote ({error}): docs/enclave-hardware.md") from None

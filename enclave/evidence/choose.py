"""Which platform this runs on: the one that the configuration names."""

import os
from pathlib import Path
from typing import Final

from enclave.evidence.base import EvidenceProvider
from enclave.evidence.gramine import ROOT as GRAMINE
from enclave.evidence.gramine import Gramine
from enclave.evidence.insecure_simulated import InsecureSimulated
from enclave.evidence.nsm import Nsm, by_device
from enclave.evidence.tpm import Tpm
from enclave.evidence.tsm import ENTRY, Tsm
from enclave.evidence.tsm import ROOT as TSM
from enclave.measure import measure

EVENT_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")


def choose(name: str, state_dir: Path) -> tuple[EvidenceProvider, Path | None]:
    """The provider, and the directory in which it has to go on reading and writing, if any.

    Raises LocalFault or OSError where this isn't such a platform.
    """
    match name:
        case "tsm":
            return Tsm(), TSM / ENTRY
        case "gramine":
            return Gramine(), GRAMINE
        case "nsm":
            return Nsm(by_device(os.open("/dev/nsm", os.O_RDWR | os.O_CLOEXEC))), None
        case "tpm":
            log = EVENT_LOG.read_bytes() if EVENT_LOG.exists() else b""
            return Tpm(os.open("/dev/tpmrm0", os.O_RDWR | os.O_CLOEXEC), log), None
        case _:
            return InsecureSimulated.load(state_dir, measure().measurement), None

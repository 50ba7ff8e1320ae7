"""A directory that looks like Gramine's /dev/attestation, with one quote that was made before."""

from pathlib import Path

from tests.platforms.dcap import SoftwareDcap

KEY = bytes(range(16))  # the processor's for one enclave


def gramine_directory(root: Path, platform: SoftwareDcap, report_data: bytes) -> Path:
    """Make it; what is written to `user_report_data` stays there and changes no quote."""
    (root / "keys").mkdir(parents=True)
    (root / "attestation_type").write_text("dcap")
    (root / "keys" / "_sgx_mrenclave").write_bytes(KEY)
    (root / "user_report_data").write_bytes(bytes(64))
    (root / "quote").write_bytes(platform.quote("sgx", report_data))
    return root

"""A real liboqs for tests, from the wheel quantum-safe-py, of which nothing else is used.

tools/setup.sh installs it where there is a wheel (x86-64 Linux with CPython 3.10 to 3.12).
"""

import importlib.util
import os
from pathlib import Path

import pytest

from qflare.crypto.provider import provider_of
from qflare.crypto.suites import FRODO640AES_MLDSA44
from qflare.faults import LocalFault


def _lacking() -> str:
    found = importlib.util.find_spec("quantum_safe")
    if "OQS_INSTALL_PATH" not in os.environ and found is not None and found.origin is not None:
        # Processes that tests start shall find it, too.
        os.environ["OQS_INSTALL_PATH"] = str(Path(found.origin).parent / "_vendor" / "liboqs")
    try:
        provider_of(FRODO640AES_MLDSA44)
    except LocalFault as fault:
        return f"{fault}; or for tests: pip install --no-deps quantum-safe-py==1.0.0"
    return ""


LACKING = _lacking()
needs_liboqs = pytest.mark.skipif(bool(LACKING), reason=LACKING)

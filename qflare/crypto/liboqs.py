"""FrodoKEM-640-AES from liboqs, by liboqs-python: the one place that imports `oqs`.

Importing `oqs` where its library is missing clones and builds it, then raises SystemExit; so the
library is located first, as `oqs` would, and the version that it might build is set to none. Its
import prints, which is kept off our standard output. Under this name liboqs 0.16 has the salted
variant that ISO standardises, for keys that many encapsulate to (ciphertext 9,752 bytes); what
older ones call so has 9,720 bytes, and the two don't understand each other.
"""

import io
import os
from contextlib import redirect_stdout
from ctypes.util import find_library
from functools import cache
from pathlib import Path
from typing import Any

from qflare.faults import LocalFault

PUBLIC, SECRET, CIPHERTEXT, SHARED = 9616, 19888, 9752, 16  # bytes
_NAME = "FrodoKEM-640-AES"
_INSTALL = """install liboqs 0.16 or newer as a shared library that the linker finds, or set \
OQS_INSTALL_PATH to where it was installed; and: pip install 'qflare[frodo]'"""


@cache
def library() -> Any:
    """Return the module `oqs`; raise LocalFault unless it has the salted FrodoKEM-640-AES."""
    home = Path(os.environ.get("OQS_INSTALL_PATH", "~/_oqs"))
    try:
        if not (any(home.expanduser().glob("lib*/liboqs.so")) or find_library("oqs")):
            raise LocalFault(f"no liboqs.so, neither for the linker nor in {home}/lib")
        os.environ["PYOQS_VERSION"] = "none"
        with redirect_stdout(io.StringIO()):
            import oqs
        with oqs.KeyEncapsulation(_NAME) as kem:
            length = kem.details["length_ciphertext"]
    except (Exception, SystemExit) as error:  # an old library lacks symbols, or the algorithm
        raise LocalFault(f"liboqs can't be used: {error}; {_INSTALL}") from None
    if length != CIPHERTEXT:
        raise LocalFault(
            f"this liboqs has another {_NAME}, with ciphertexts of {length} bytes; {_INSTALL}"
        )
    return oqs


def frodo(secret: bytes | None = None) -> Any:
    """FrodoKEM-640-AES, with a private key or none; a context that wipes it."""
    return library().KeyEncapsulation(_NAME, secret)

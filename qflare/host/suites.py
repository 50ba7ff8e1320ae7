"""The names of suites as people write them, and what is meant by names of before the standards."""

from qflare.crypto.suites import SUITES, Suite
from qflare.faults import LocalFault

# How a name begins that stands for an algorithm, not for a suite; and what is said of it.
_MEANT = {
    "dilithium2": "Dilithium2 became ML-DSA-44 (FIPS 204), with other bytes: frodo640aes-mldsa44",
    "dilithium3": "Dilithium3 became ML-DSA-65 (FIPS 204), with other bytes: xwing-mldsa65",
    "dilithium": "Dilithium became ML-DSA (FIPS 204): xwing-mldsa65 or frodo640aes-mldsa44",
    "kyber": "Kyber became ML-KEM (FIPS 203), with other bytes: xwing-mldsa65 has ML-KEM-768",
    "mlkem": "ML-KEM-768 is half of the KEM of xwing-mldsa65",
    "mldsa44": "ML-DSA-44 signs in frodo640aes-mldsa44",
    "mldsa65": "ML-DSA-65 signs in xwing-mldsa65",
    "xwing": "X-Wing is the KEM of xwing-mldsa65",
    "efrodo": "eFrodoKEM serves one message a key; frodo640aes-mldsa44 has the salted FrodoKEM",
    "frodo": "the one suite with FrodoKEM is frodo640aes-mldsa44, with FrodoKEM-640-AES, salted",
}


def suite_named(name: str) -> Suite:
    """Return the suite called `name`; raise LocalFault, which says what may have been meant."""
    for suite in SUITES:
        if suite.name == name:
            return suite
    bare = "".join(c for c in name.lower() if c.isalnum())
    meant = next((f"; {said}" for begins, said in _MEANT.items() if begins in bare), "")
    known = ", ".join(suite.name for suite in SUITES)
    raise LocalFault(f"no suite {name[:40]!r}{meant}; choose from {known}")

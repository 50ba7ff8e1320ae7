"""Suites, typed keys, certificates: the part of QFLARE that touches cryptography.

No primitive is written here. `suites` says what a suite is made of, `keys` gives typed keys,
`provider` is the seam behind which a suite's KEM sits, `pyca` has one library's KEM and every
signature, `frodo` joins FrodoKEM (`liboqs`) with X25519, and `certificates` issues and verifies
device certificates.
"""

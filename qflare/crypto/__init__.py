"""Suites, typed keys, certificates: the part of QFLARE that touches cryptography.

No primitive is written here. `suites` says what a suite is made of, `keys` gives typed keys,
`provider` is the seam behind which a library sits, `pyca` is that library's one file, and
`certificates` issues and verifies device certificates.
"""

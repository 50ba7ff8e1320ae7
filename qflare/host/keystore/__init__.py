"""Where private keys are kept: under a passphrase, by a TPM 2.0, or by a token (PKCS#11).

Whatever keeps it, a key is one file that says how it opens, so `key = "/etc/qflare/owner.seed"`
stays the one spelling. Nothing here is part of the trusted computing base: the enclave's own keys
never come here.
"""

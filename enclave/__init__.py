"""The enclave: the trusted computing base that sees single updates."""

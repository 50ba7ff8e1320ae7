"""How fast the enclave admits and adds updates, in how much memory, and beside whom."""

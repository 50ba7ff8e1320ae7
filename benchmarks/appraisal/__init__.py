"""What a device's look at an enclave's evidence costs."""

"""Where a device gets its samples from."""

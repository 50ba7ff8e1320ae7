"""Training in a process of its own, which a device's daemon starts, watches and can do without."""

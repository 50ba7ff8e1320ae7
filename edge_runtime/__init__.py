"""The device: appraises a round, trains on its own data, seals and sends its update."""

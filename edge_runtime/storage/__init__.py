"""What a device keeps for years: durable, bounded, private if its owner gave a key."""

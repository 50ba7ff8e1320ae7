"""How far federated training of each zoo model stays behind central training."""

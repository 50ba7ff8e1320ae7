"""An autoencoder of nine sensors: what it can't give back is not normal."""

"""Evidence providers: what an enclave can say about itself, and on whose word."""

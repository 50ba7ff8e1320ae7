"""New versions for the fleet's devices: which bundles can be had, and by how many of them."""

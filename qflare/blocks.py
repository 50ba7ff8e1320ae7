"""Blocks: how many coordinates of a flat vector share one scale."""

BLOCK = 256


def blocks_of(size: int) -> int:
    """How many blocks of BLOCK coordinates `size` coordinates fill."""
    return -(-size // BLOCK)

"""Merkle trees after RFC 9162, section 2.1 (RFC 6962 has the same trees).

Leaves are byte strings of any length, nodes are SHA-256; a leaf's hash starts with 0x00 and an
inner node's with 0x01, so that neither can pass for the other. Proofs are in proofs.py.
"""

from collections.abc import Iterable

from qflare.names import Digest

EMPTY_ROOT = Digest.of()


def leaf_hash(leaf: bytes) -> Digest:
    """The hash of a leaf: SHA-256(0x00 ‖ leaf)."""
    return Digest.of(b"\x00", leaf)


def node_hash(left: Digest, right: Digest) -> Digest:
    """The hash of an inner node: SHA-256(0x01 ‖ left ‖ right)."""
    return Digest.of(b"\x01", left.raw, right.raw)


def root(leaves: Iterable[bytes]) -> Digest:
    """The Merkle tree hash of `leaves`; SHA-256 of nothing if there are none.

    Keeps the roots of full subtrees alone, largest first: a logarithmic memory.
    """
    peaks: list[Digest] = []
    for size, leaf in enumerate(leaves):
        node = leaf_hash(leaf)
        while size & 1:
            node, size = node_hash(peaks.pop(), node), size >> 1
        peaks.append(node)
    if not peaks:
        return EMPTY_ROOT
    node = peaks.pop()
    while peaks:
        node = node_hash(peaks.pop(), node)
    return node

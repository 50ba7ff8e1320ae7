"""Inclusion and consistency proofs in Merkle trees, after RFC 9162, section 2.1.

`Tree` keeps every node and makes proofs; the verify functions need none.
"""

from collections.abc import Iterable, Sequence

from qflare.faults import LocalFault, PeerFault, Reason
from qflare.merkle import EMPTY_ROOT, leaf_hash, node_hash
from qflare.names import Digest

SIZE_MAX = 2**63 - 1

Proof = tuple[Digest, ...]


class Tree:
    """Every node of a fixed tree, 64 bytes a leaf or so; each proof is then a few look-ups."""

    __slots__ = ("_levels", "size")

    def __init__(self, leaves: Iterable[bytes]) -> None:
        level = [leaf_hash(leaf) for leaf in leaves]
        self.size = len(level)
        # Pairing neighbours, and moving a lone last node up as it is, gives RFC 9162's tree.
        self._levels = [level]
        while len(level) > 1:
            pairs = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            level = pairs + level[len(level) & ~1 :]
            self._levels.append(level)

    def root(self) -> Digest:
        """The Merkle tree hash of all leaves."""
        return self._levels[-1][0] if self.size else EMPTY_ROOT

    def inclusion_proof(self, index: int) -> Proof:
        """The siblings from leaf `index` (from 0) up to the root; LocalFault if there is none."""
        if not 0 <= index < self.size:
            raise LocalFault(f"no leaf {index} in a tree of {self.size}; ask for an earlier one")
        return tuple(
            level[(index >> height) ^ 1]
            for height, level in enumerate(self._levels)
            if (index >> height) ^ 1 < len(level)
        )

    def consistency_proof(self, old_size: int) -> Proof:
        """What shows that the first `old_size` leaves are still the same; LocalFault if fewer."""
        if not 0 <= old_size <= self.size:
            raise LocalFault(f"a tree of {self.size} never had {old_size} leaves; ask for fewer")
        if old_size in (0, self.size):
            return ()
        proof: list[Digest] = []
        low, high, whole = 0, self.size, True
        while low + old_size < high:
            # RFC 9162's SUBPROOF, walked down: `old_size` counts from `low`, and `whole` stays
            # true while the old tree is a full subtree at the left, whose root the verifier has.
            split = 1 << ((high - low - 1).bit_length() - 1)
            if old_size <= split:
                proof.append(self._subtree(low + split, high))
                high = low + split
            else:
                proof.append(self._subtree(low, low + split))
                low, old_size, whole = low + split, old_size - split, False
        if not whole:
            proof.append(self._subtree(low, high))
        return tuple(reversed(proof))

    def _subtree(self, low: int, high: int) -> Digest:
        height = (high - low - 1).bit_length()
        return self._levels[height][low >> height]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> Proof:
    """`Tree.inclusion_proof` for a single proof."""
    return Tree(leaves).inclusion_proof(index)


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> Proof:
    """`Tree.consistency_proof` for a single proof."""
    return Tree(leaves).consistency_proof(old_size)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Proof, root: Digest) -> None:
    """Verify that `leaf` stands at `index` (from 0) in the tree of `size` leaves under `root`.

    Raises PeerFault(BAD_PROOF). RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size <= SIZE_MAX:
        raise PeerFault(Reason.BAD_PROOF, f"no leaf {index} in a tree of {size}")
    node, place, last = leaf_hash(leaf), index, size - 1
    for sibling in proof:
        if last == 0:
            raise PeerFault(Reason.BAD_PROOF, "inclusion proof too long")
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while not place & 1 and place:  # levels at which the node went up alone
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        place, last = place >> 1, last >> 1
    if last != 0 or node != root:
        raise PeerFault(Reason.BAD_PROOF, "inclusion proof does not lead to the root")


def verify_consistency(
    old_size: int, old_root: Digest, new_size: int, new_root: Digest, proof: Proof
) -> None:
    """Verify that the tree under `new_root` begins with the tree under `old_root`.

    Every tree begins with the empty one. Raises PeerFault(BAD_PROOF), also when the new tree is
    the smaller. RFC 9162, section 2.1.4.2.
    """
    if not 0 <= old_size <= new_size <= SIZE_MAX:
        raise PeerFault(Reason.BAD_PROOF, f"a log of {old_size} leaves can't grow to {new_size}")
    if old_size in (0, new_size):
        expected = new_root if old_size else EMPTY_ROOT
        if proof or old_root != expected or (not new_size and new_root != EMPTY_ROOT):
            raise PeerFault(Reason.BAD_PROOF, "an unchanged or empty log needs no proof")
        return
    path = proof
    if old_size & (old_size - 1) == 0:  # a power of two: the old root itself is the first node
        path = (old_root, *proof)
    if not path:
        raise PeerFault(Reason.BAD_PROOF, "consistency proof too short")
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise PeerFault(Reason.BAD_PROOF, "consistency proof too long")
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        place, last = place >> 1, last >> 1
    if last != 0 or old != old_root or new != new_root:
        raise PeerFault(Reason.BAD_PROOF, "consistency proof does not join the two roots")

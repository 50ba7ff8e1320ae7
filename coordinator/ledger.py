"""The history of released rounds: a chain of receipts and a Merkle tree over them. Pure.

Each receipt names the one before it (`previous_receipt`), and the signed receipts are the leaves
of an RFC 9162 tree in order of release. The database appends by compare-and-swap on the size.
"""

from collections.abc import Iterable

from qflare.faults import LocalFault, PeerFault, Reason
from qflare.messages import ZERO, Checkpoint
from qflare.names import Digest
from qflare.proofs import Proof, Tree


class Ledger:
    """All leaves, and the proofs that devices ask for."""

    def __init__(self, leaves: Iterable[bytes] = (), head: Digest = ZERO) -> None:
        self._leaves = list(leaves)
        self._tree = Tree(self._leaves)
        self.head = head  # digest of the last receipt, ZERO when there is none

    @property
    def checkpoint(self) -> Checkpoint:
        """Size and root as they are now."""
        return Checkpoint(self._tree.size, self._tree.root())

    def append(self, leaf: bytes, receipt: Digest, previous: Digest) -> None:
        """Add a receipt; LocalFault unless it follows the last one."""
        if previous != self.head:
            raise LocalFault(
                f"receipt {receipt.short} follows {previous.short} and the ledger ends with "
                f"{self.head.short}; restore the database that goes with this enclave"
            )
        self._leaves.append(leaf)
        self._tree = Tree(self._leaves)
        self.head = receipt

    def inclusion(self, index: int) -> Proof:
        """The proof that leaf `index` stands in the ledger as it is now."""
        return self._tree.inclusion_proof(index)

    def consistency(self, old_size: int, new_size: int) -> Proof:
        """The proof that the ledger of `new_size` begins with that of `old_size`.

        Raises PeerFault(BAD_VALUE) for sizes that the ledger never had.
        """
        if not 0 <= old_size <= new_size <= self._tree.size:
            raise PeerFault(Reason.BAD_VALUE, f"ledger of {self._tree.size}: {old_size}…{new_size}")
        tree = self._tree if new_size == self._tree.size else Tree(self._leaves[:new_size])
        return tree.consistency_proof(old_size)

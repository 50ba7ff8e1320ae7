"""Is my update in the aggregate? Asks for the inclusion proof of the last answered round. Pure."""

from dataclasses import dataclass

from edge_runtime.memory import LastReceipt
from qflare.faults import PeerFault, Reason
from qflare.messages import update_leaf
from qflare.names import DeviceId, Digest
from qflare.proofs import verify_inclusion
from qflare.record import check
from qflare.transfer import AskInclusion, InclusionAnswer

ASK_S = 5.0
TRIES = 10


@dataclass
class Proving:
    """One update that a receipt of the coordinator says is in."""

    device: DeviceId
    update: Digest
    receipt: LastReceipt
    asked: float = float("-inf")
    tries: int = 0

    @property
    def exhausted(self) -> bool:
        """Nobody answered for so long that somebody should know."""
        return self.tries >= TRIES

    def again(self) -> None:
        """A new connection: what was asked on the last one will not be answered."""
        self.asked = float("-inf")

    def ask(self, now: float) -> AskInclusion | None:
        """The question, if it is time to ask (again)."""
        if self.exhausted or now - self.asked < ASK_S:
            return None
        self.asked = now
        self.tries += 1
        return AskInclusion(self.receipt.round, self.update)

    def verify(self, answer: InclusionAnswer) -> None:
        """Raise PeerFault(BAD_PROOF) unless the answer puts the update under the receipt."""
        receipt = self.receipt
        asked = (answer.round, answer.update) == (receipt.round, self.update)
        check(asked, "a proof that nobody asked for", Reason.WRONG_OFFER)
        if answer.size != receipt.admitted:
            raise PeerFault(Reason.BAD_PROOF, f"{answer.size} updates, {receipt.admitted} signed")
        leaf = update_leaf(self.device, self.update)
        verify_inclusion(leaf, answer.index, answer.size, answer.proof, receipt.updates)

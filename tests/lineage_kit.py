"""Platforms, devices and coordinators that hold an enclave's words against one another."""

from collections.abc import Callable

import numpy as np

from edge_runtime.trusted_model import TrustedModel
from edge_runtime.trusted_round import NeedConsistency, Trust
from enclave.evidence.insecure_simulated import InsecureSimulated
from enclave.machine import EnclaveMachine
from qflare.enclave_wire import Released, RoundOpened
from qflare.envelope import sign
from qflare.faults import PeerFault
from qflare.messages import Checkpoint, ModelReady
from qflare.proofs import Tree
from tests.enclave_kit import MEASUREMENT, PLATFORM_KEY, Fleet


class Uncounted(InsecureSimulated):
    """Seals as SGX does: by a key of its own, without a counter, so that older states open too."""

    keeps_rounds = False


def machine(
    fleet: Fleet,
    kind: Callable[..., InsecureSimulated] = Uncounted,
    sealed: bytes | None = None,
) -> EnclaveMachine:
    provider = kind(MEASUREMENT, PLATFORM_KEY)
    random = np.random.default_rng().bytes
    return EnclaveMachine(fleet.manifest.fleet, fleet.owner.verify_key, provider, random, sealed, 7)


class Witness:
    """A device's verifier, which is shown every release, and a ledger of those that it took."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.trust = Trust(fleet.owner.verify_key, fleet.manifest.fleet)
        self.taken: dict[int, bytes] = {}  # by round
        self._leaves: list[bytes] = []

    def manifest(self, signed: bytes) -> None:
        self.trust.take_manifest(signed)

    def take(self, opened: RoundOpened, released: Released) -> str:
        """What the device says: "taken", or why not."""
        leaves = [*self._leaves, released.receipt]
        tree = Tree(leaves)
        ready = ModelReady(
            fleet=opened.claims.fleet,
            receipt=released.receipt,
            claims=opened.claims,
            evidence=opened.evidence,
            checkpoint=Checkpoint(len(leaves), tree.root()),
            inclusion=tree.inclusion_proof(len(leaves) - 1),
            consistency=tree.consistency_proof(len(leaves) - 1),
            model_size=len(released.weights),
        )
        it = TrustedModel(self.trust)
        try:
            it.take_ready(sign(ready, self._fleet.coordinator))
            it.take_evidence()
            receipt = it.take_receipt()
            verdict = it.take_ledger()
        except (PeerFault, NeedConsistency) as fault:
            return fault.reason.value if isinstance(fault, PeerFault) else "later"
        if not verdict.known:
            assert receipt.round not in self.taken  # the law, of devices
            self._leaves = leaves
            self.taken[receipt.round] = released.receipt
        return "taken"

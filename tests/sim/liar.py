"""A coordinator that lies with its real key, while the real machine pauses between two rounds."""

from collections import Counter
from dataclasses import replace
from typing import Any, TypeVar

from enclave.evidence.insecure_simulated import InsecureSimulated
from qflare.envelope import Signable, peek_signed, sign
from qflare.faults import Reason
from qflare.messages import EnclaveClaims, Evidence, ModelReady, RoundOffer, RoundReceipt
from qflare.names import Digest
from qflare.topics import All, AllTopic, build
from tests.sim.broker import COORDINATOR
from tests.sim.simulation import Simulation
from tests.unit.coordinator_rig import FLEET, MEASUREMENT

M = TypeVar("M", bound=Signable)
PAUSE_S = 100.0


def evidence(claims: EnclaveClaims, measurement: Digest = MEASUREMENT) -> Evidence:
    """Simulated evidence proves nothing: whoever knows the reference value can make it."""
    return InsecureSimulated(measurement, bytes(32)).quote(claims.report_data)


class Liar:
    """Two honest rounds are behind; the third one comes after whatever is tried here."""

    def __init__(self, devices: int = 3) -> None:
        self.sim = Simulation(devices, rounds=3, pause_s=PAUSE_S)
        self.sim.start()
        self.sim.run(self._two_rounds)
        self.sim.rest(1.0)
        self.trained = self._trained()
        self.refused: Counter[str] = Counter()

    def _two_rounds(self) -> bool:
        memories = [edge.machine.memory for edge in self.sim.edges.values()]
        return all(m.receipt is not None and m.receipt.round == 2 for m in memories)

    def _trained(self) -> list[list[int]]:
        return [list(edge.trained) for edge in self.sim.edges.values()]

    # --- what was said, to say it otherwise ----------------------------------------------------

    def heard(self, kind: All) -> list[bytes]:
        """Everything that was said to everybody, in order, without repetitions."""
        topic = build(AllTopic(FLEET, kind))
        return list(dict.fromkeys(p for _, t, p in self.sim.broker.log if t == topic and p))

    @property
    def offers(self) -> list[RoundOffer]:
        return [peek_signed(RoundOffer, data) for data in self.heard(All.OFFER)]

    @property
    def models(self) -> list[ModelReady]:
        return [peek_signed(ModelReady, data) for data in self.heard(All.MODEL)]

    @property
    def receipts(self) -> list[RoundReceipt]:
        return [peek_signed(RoundReceipt, model.receipt) for model in self.models]

    def claims(self, **changes: Any) -> EnclaveClaims:
        """What the enclave would claim for round 3."""
        last, before = self.receipts[-1], self.offers[-1].claims
        made = replace(
            before,
            round=3,
            epoch=before.epoch + 1,
            step=last.step + 1,
            model=last.model,
            state=last.state,
            receipt=last.digest,
        )
        return replace(made, **changes)

    def offer(self, claims: EnclaveClaims | None = None, **changes: Any) -> RoundOffer:
        """An offer of round 3 that every device would take, but for the changes."""
        claims = claims or self.claims()
        given: dict[str, Any] = {
            "round": claims.round,
            "claims": claims,
            "evidence": evidence(claims),
            "checkpoint": self.models[-1].checkpoint,
        }
        return replace(self.offers[-1], **(given | changes))

    # --- what it says --------------------------------------------------------------------------

    def say(self, kind: All, payload: bytes, retain: bool = True) -> None:
        self.sim.say(COORDINATOR, AllTopic(FLEET, kind), payload, retain)
        self.sim.rest(1.0)

    def say_signed(self, kind: All, message: Signable) -> None:
        self.say(kind, sign(message, self.sim.world.coordinator))

    # --- what comes of it ----------------------------------------------------------------------

    def check_refused(self, reason: Reason) -> None:
        """Every device refused, for this reason, and none trained or changed its mind."""
        self.sim.rest(8.0)
        receipt = self.receipts[1]
        for edge in self.sim.edges.values():
            assert edge.counters[f"refused_{reason.value}"] >= 1, dict(edge.counters)
            memory = edge.machine.memory
            assert memory.receipt is not None
            assert memory.receipt.digest == receipt.digest
            assert memory.active == receipt.model
        assert self._trained() == self.trained

"""What the coordinator says of its enclave, and when it alerts."""

from dataclasses import replace

from coordinator.health import ENDS_SOON_S, EnclaveHealth
from qflare.appraisal import AttestationResult
from qflare.envelope import peek_signed
from qflare.messages import EnclaveClaims, RoundOffer
from qflare.names import Digest
from qflare.verifiers.facts import Facts, Tier
from tests.edge_lab import Lab
from tests.sim.simulation import Simulation
from tests.unit.coordinator_rig import FLEET

NOW = 1_900_000_000.0
GOOD = Facts(Tier.HARDWARE, bytes(64), Digest.of(b"code"), expires=int(NOW) + 2 * ENDS_SOON_S)


def result(facts: Facts) -> AttestationResult:
    return AttestationResult("tdx", facts)


def claims() -> EnclaveClaims:
    return peek_signed(RoundOffer, Lab().signed_offer(1)).claims


def test_alerts_when_the_tier_falls_or_endorsements_end() -> None:
    health = EnclaveHealth()

    def say(facts: Facts) -> list[str]:
        return [log.event for log in health.appraised(result(facts), claims(), NOW)]

    assert say(GOOD) == []
    assert say(replace(GOOD, tier=Tier.TPM)) == ["the enclave's tier fell"]
    assert say(replace(GOOD, tier=Tier.TPM)) == []  # said once
    assert say(GOOD) == []
    late = replace(GOOD, expires=int(NOW) + ENDS_SOON_S - 1)
    assert say(late) == ["the enclave's endorsements end soon: fetch newer"]
    assert say(replace(GOOD, expires=0)) == []  # nothing that could end


def test_what_a_fleet_sees() -> None:
    sim = Simulation(3, rounds=2)
    sim.start()
    sim.run(sim.settled)
    figures = sim.coordinator.machine.book.enclave.figures(sim.now)
    assert (figures["state"], figures["tier"], figures["epoch"]) == ("ready", "simulated", 2)
    assert figures["provider"] == "insecure_simulated"
    assert figures["endorsements_end"] is None
    said = {t for _, t, _ in sim.broker.log if "metrics/enclave" in t}
    assert said == {f"qflare/1/{FLEET}/coordinator/metrics/enclave"}
    assert not any("dev-" in str(value) for value in figures.values())  # nobody by name
    sim.enclave.kill()
    sim.rest(2.0)
    assert sim.coordinator.machine.book.enclave.figures(sim.now)["state"] != "ready"

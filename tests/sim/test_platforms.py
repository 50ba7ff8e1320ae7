"""A fleet whose enclave runs in a trust domain of software: real formats, another root.

Nothing that the enclave knows outlives it. The coordinator adds the platform's endorsements from
its file, and renews them; every device appraises offline.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.endorsements import endorsed
from coordinator.requests import from_wire
from enclave.machine import EnclaveMachine
from qflare.appraisal import AttestationResult
from qflare.enclave_wire import RoundOpened
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.policy import AppraisalPolicy, ReferenceValue
from qflare.verifiers.facts import Facts, Tier
from qflare.verifiers.quote import quote_measurement
from tests.platforms.dcap import DAY, NOW, SoftwareDcap
from tests.sim import rooms
from tests.sim.outcome import abandoned, check_outcome, released
from tests.sim.simulation import WORLD, Calm, Simulation
from tests.unit.coordinator_rig import FLEET, World
from tests.unit.test_coordinator_endorsements import as_json

PLATFORM = SoftwareDcap()


class TrustDomain:
    """As enclave/evidence/tsm.py, without the kernel between."""

    name = "tdx"

    def __init__(self) -> None:
        self.measurement: Digest = quote_measurement(self.quote(bytes(64)).body)

    def quote(self, report_data: bytes) -> Evidence:
        return Evidence(self.name, PLATFORM.quote(self.name, report_data))

    def seal(self, secret: bytes) -> bytes:
        return b""

    def unseal(self, sealed: bytes) -> bytes:
        raise AssertionError("nothing was sealed")


class OneKill(Calm):
    """The enclave ends once, as it takes its first update."""

    def __init__(self) -> None:
        self.killed = False

    def kills(self, room: rooms.Room) -> bool:
        if self.killed or not isinstance(room, rooms.Enclave):
            return False
        self.killed = room.machine.phase == "open" and room.machine._standing().admitted == 1
        return self.killed


@pytest.fixture
def fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Callable[..., Simulation]]:
    file = tmp_path / "collateral.json"

    def boot(room: rooms.Enclave) -> None:
        owner, rng = room.sim.world.owner.verify_key, room.sim.random.randbytes
        assert not room.disk
        room.machine = EnclaveMachine(FLEET, owner, TrustDomain(), rng, room.disk)
        room.sim.coordinator.feed(rooms.co.EnclaveUp())

    def parsed(frame: bytes, blobs: object) -> object:
        reply = from_wire(frame, blobs)  # type: ignore[arg-type]
        return endorsed(reply, file) if isinstance(reply, RoundOpened) else reply

    monkeypatch.setattr(rooms.Enclave, "_boot", boot)
    monkeypatch.setattr(rooms, "from_wire", parsed)

    def make(**options: object) -> Simulation:
        world = World(start=float(NOW))
        policy = AppraisalPolicy(tier=0, insecure_roots=(PLATFORM.insecure_root,))
        value = ReferenceValue("tdx", TrustDomain().measurement)
        bounds = WORLD.manifest.bounds
        # The devices' clocks have lost their time: the owner's word of it is all that they know.
        world.manifest = replace(
            world.manifest,
            issued=NOW,
            bounds=bounds,
            reference_values=(value,),
            appraisal=policy,
        )
        sim = Simulation(world=world, **options)  # type: ignore[arg-type]
        sim.now = float(NOW)
        return sim

    return file, make


def test_rounds_over_real_formats(fleet: tuple[Path, Callable[..., Simulation]]) -> None:
    file, make = fleet
    file.write_text(as_json(PLATFORM.collateral("tdx")))
    sim = make(rounds=2)
    sim.start()
    sim.run(sim.settled)
    check_outcome(sim)
    assert [receipt.admitted for receipt in released(sim)] == [4, 4]


def test_an_enclave_that_ends_abandons_its_round_and_no_more(
    fleet: tuple[Path, Callable[..., Simulation]],
) -> None:
    file, make = fleet
    file.write_text(as_json(PLATFORM.collateral("tdx")))
    sim = make(rounds=2, faults=OneKill())
    sim.start()
    sim.run(sim.settled)
    check_outcome(sim)
    assert sim.kills == {"enclave": 1}
    assert list(abandoned(sim)) == [1]


def test_no_round_before_the_platform_is_fresh_again(
    fleet: tuple[Path, Callable[..., Simulation]],
) -> None:
    file, make = fleet
    file.write_text(as_json(PLATFORM.collateral("tdx", ends=NOW - DAY, issued=NOW - 31 * DAY)))
    sim = make(rounds=1)
    sim.start()
    sim.rest(30)
    assert not sim.done
    assert sim.coordinator.machine.book.refusals["evidence_refused"] > 1
    file.write_text(as_json(PLATFORM.collateral("tdx")))
    sim.run(sim.settled)
    check_outcome(sim)


def test_a_device_takes_no_offer_whose_platform_was_revoked(
    fleet: tuple[Path, Callable[..., Simulation]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that doesn't look offers it all the same; no device answers."""
    file, make = fleet
    file.write_text(as_json(PLATFORM.collateral("tdx", revoked=(PLATFORM.pck,))))

    blind = AttestationResult("tdx", Facts(Tier.HARDWARE, bytes(64), Digest(bytes(32))))
    monkeypatch.setattr("coordinator.exchange.appraise", lambda *_: blind)
    sim = make(rounds=1)
    sim.start()
    sim.rest(40)
    assert sim.coordinator.machine.book.round is not None
    assert not sim.made
    assert not released(sim)

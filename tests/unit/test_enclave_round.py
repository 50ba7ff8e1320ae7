"""The enclave's round, seen by a coordinator that tells the truth, repeats itself, or lies."""

from dataclasses import replace

import numpy as np
import pytest

from enclave.machine import TRANSITIONS, Phase
from enclave.step import ServerOptimiser, StepState, step
from qflare.appraisal import appraise
from qflare.compression import parse_codec
from qflare.compression.codecs import decode
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enclave_wire import (
    Admit,
    Admitted,
    Ask,
    Configure,
    OpenRound,
    Release,
    RoundOpened,
    Standing,
)
from qflare.faults import LocalFault, PeerFault
from qflare.host.manifest import signing
from qflare.merkle import root
from qflare.messages import ZERO, update_leaf
from qflare.names import Digest
from qflare.tensors import weights_from_bytes
from tests.enclave_kit import FLEET, SIZE, Driver, Fleet, after
from tests.owner_kit import handed_over


def damaged(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def driver(fleet: Fleet) -> Driver:
    made = Driver(fleet)
    made.ask(fleet.configure())
    return made


def test_a_whole_round(fleet: Fleet, driver: Driver) -> None:
    opened, released = driver.run_round(fleet.open_request())
    appraise(opened.evidence, opened.claims, fleet.manifest, 0)
    receipt = driver.receipt(released, opened.claims)
    codec = parse_codec("q8")
    updates = [
        decode(fleet.payload(i).encoded, codec, SIZE).values() for i in range(fleet.count)
    ]  # of equal weight
    mean = np.sum(updates, axis=0) * 10 / 40
    weights, state = step(
        np.ones(SIZE, np.float32), StepState.initial(SIZE), mean, ServerOptimiser("fedavgm", 0.9, 1)
    )
    np.testing.assert_array_equal(weights_from_bytes(released.weights, SIZE), weights)
    assert released.state == state.to_bytes()
    assert receipt.admitted == 4
    assert receipt.total_weight == 40
    assert receipt.model == Digest.of(released.weights)
    assert receipt.previous_model == fleet.manifest.genesis.weights
    assert receipt.previous_receipt == ZERO
    assert receipt.step == 1
    assert driver.machine.phase is Phase.RELEASED


def test_the_receipt_commits_to_the_updates_in_order_of_device(
    fleet: Fleet, driver: Driver
) -> None:
    opened = driver.opened(fleet.open_request())
    admits = [fleet.admit(i, opened.claims) for i in (3, 0, 2)]
    for admit in admits:
        driver.ask(admit)
    receipt = driver.receipt(driver.released(1), opened.claims)
    names = [fleet.devices[i].name for i in (3, 0, 2)]
    found = dict(zip(names, (Digest.of(a.update) for a in admits), strict=True))
    assert receipt.updates == root(update_leaf(name, found[name]) for name in sorted(found))


def test_rounds_chain(fleet: Fleet, driver: Driver) -> None:
    opened, released = driver.run_round(fleet.open_request())
    first = driver.receipt(released, opened.claims)
    second, again = driver.run_round(fleet.open_request(2, **after(opened, released)))
    receipt = driver.receipt(again, second.claims)
    assert second.claims.receipt == receipt.previous_receipt == first.digest
    assert receipt.previous_model == first.model
    assert (receipt.step, receipt.epoch) == (2, first.epoch + 1)
    assert second.claims.kem_key != opened.claims.kem_key


def test_the_same_request_gets_the_same_answer_after_a_crash_too(
    fleet: Fleet, driver: Driver
) -> None:
    opened = driver.opened(fleet.open_request())
    assert driver.ask(fleet.open_request()) == opened
    driver.restart()
    assert driver.machine.phase is Phase.OPEN
    assert driver.ask(fleet.open_request()) == opened
    for number in range(3):
        assert isinstance(driver.ask(fleet.admit(number, opened.claims)), Admitted)
    released = driver.released(1)
    driver.restart()
    assert driver.ask(Release(1)).to_bytes() == released.to_bytes()


def test_equivocation_and_spent_rounds(fleet: Fleet, driver: Driver) -> None:
    opened = driver.opened(fleet.open_request(5))
    other = replace(fleet.policy, deadline_s=61)
    assert driver.refused(fleet.open_request(5, policy=other)) == "equivocation"
    assert driver.refused(fleet.open_request(4)) == "wrong_round"
    assert driver.refused(Release(4)) == "round_closed"
    assert driver.refused(Release(6)) == "wrong_round"
    driver.opened(fleet.open_request(6))  # abandons 5
    assert driver.refused(fleet.open_request(5)) == "wrong_round"
    assert driver.refused(fleet.admit(0, opened.claims)) == "wrong_round"


def test_rollback_to_an_older_model_is_refused(fleet: Fleet, driver: Driver) -> None:
    one, first = driver.run_round(fleet.open_request())
    two, second = driver.run_round(fleet.open_request(2, **after(one, first)))
    assert driver.refused(fleet.open_request(3)) == "rollback"
    assert driver.refused(fleet.open_request(3, **after(one, first))) == "rollback"
    assert driver.refused(fleet.open_request(2, **after(two, second))) == "wrong_round"
    swapped = {**after(two, second), "weights": first.weights}
    assert driver.refused(fleet.open_request(3, **swapped)) == "wrong_digest"
    swapped = {**after(two, second), "state": b""}
    assert driver.refused(fleet.open_request(3, **swapped)) == "wrong_digest"
    driver.opened(fleet.open_request(3, **after(two, second)))


def test_another_enclaves_release_of_our_round_is_refused(fleet: Fleet, driver: Driver) -> None:
    driver.run_round(fleet.open_request())
    other = Driver(fleet)
    other.ask(fleet.configure())
    forked = other.run_round(fleet.open_request())
    assert driver.refused(fleet.open_request(2, **after(*forked))) == "equivocation"


def test_an_enclave_without_memory_believes_appraised_evidence(
    fleet: Fleet, driver: Driver
) -> None:
    opened, released = driver.run_round(fleet.open_request())
    fresh = Driver(fleet)
    fresh.ask(fleet.configure())
    last = after(opened, released)
    predecessor = last["predecessor"]
    for lie, reason in (
        (replace(predecessor, claims=replace(opened.claims, epoch=9)), "wrong_offer"),
        (replace(predecessor, claims=replace(opened.claims, signing_key=b"")), "malformed"),
        (replace(predecessor, receipt=damaged(released.receipt)), "bad_signature"),
    ):
        assert fresh.refused(fleet.open_request(2, **{**last, "predecessor": lie})) == reason
    second = fresh.opened(fleet.open_request(2, **last))
    assert second.claims.step == 2
    assert second.claims.epoch == opened.claims.epoch + 1


def test_a_policy_beyond_the_owners_bounds_is_refused(fleet: Fleet, driver: Driver) -> None:
    for change in (
        {"min_cohort": 1},
        {"clip_norm": 9.0},
        {"weight_cap": 1001},
        {"codec": "q4z"},
        {"suite": "none"},
    ):
        policy = replace(fleet.policy, **change)
        assert driver.refused(fleet.open_request(policy=policy)) == "policy_not_allowed"
    assert driver.machine.phase is Phase.IDLE


def test_genesis_is_what_the_owner_signed(fleet: Fleet, driver: Driver) -> None:
    assert driver.refused(fleet.open_request(weights=b"\0" * SIZE * 4)) == "wrong_digest"
    assert driver.refused(fleet.open_request(state=b"\0" * SIZE * 4)) == "wrong_digest"


def test_below_the_minimum_nothing_is_released(fleet: Fleet, driver: Driver) -> None:
    opened = driver.opened(fleet.open_request())
    driver.ask(fleet.admit(0, opened.claims))
    assert driver.refused(Release(1)) == "below_min_cohort"
    assert driver.refused(fleet.admit(1, opened.claims)) == "round_closed"
    assert driver.refused(Release(1)) == "round_closed"
    driver.restart()
    assert driver.refused(Release(1)) == "round_closed"
    assert driver.refused(fleet.open_request()) == "wrong_round"
    driver.run_round(fleet.open_request(2))


def test_after_the_release_the_key_is_gone_from_the_state(fleet: Fleet, driver: Driver) -> None:
    opened = driver.opened(fleet.open_request())
    before = driver.machine._state
    assert before.opened is not None
    kem_seed = before.opened.kem_seed
    assert kem_seed in before.to_bytes()
    assert kem_seed not in (driver.disk or b"")  # it is sealed
    for number in range(3):
        driver.ask(fleet.admit(number, opened.claims))
    driver.released(1)
    assert kem_seed not in driver.machine._state.to_bytes()
    assert driver.machine._desk is None
    assert driver.refused(fleet.admit(3, opened.claims)) == "round_closed"


def test_the_last_release_is_told_again_while_the_next_round_is_open(
    fleet: Fleet, driver: Driver
) -> None:
    opened, released = driver.run_round(fleet.open_request())
    driver.opened(fleet.open_request(2, **after(opened, released)))
    assert driver.ask(Release(1)).to_bytes() == released.to_bytes()
    driver.restart()
    assert driver.ask(Release(1)).to_bytes() == released.to_bytes()


def test_cohorts_are_drawn_by_the_enclave_and_cannot_be_ground(
    fleet: Fleet, driver: Driver
) -> None:
    names = tuple(device.name for device in fleet.devices)
    policy = replace(fleet.policy, max_cohort=2)
    first = driver.opened(fleet.open_request(1, policy=policy, candidates=names))
    assert len(first.cohort) == 2
    again = driver.opened(fleet.open_request(2, policy=policy, candidates=names[::-1]))
    assert again.cohort == first.cohort  # abandoning a round draws nothing new
    outside = next(i for i, n in enumerate(names) if n not in again.cohort)
    assert driver.refused(fleet.admit(outside, again.claims)) == "not_invited"
    twin = Driver(fleet)
    twin.ask(fleet.configure())
    assert twin.opened(fleet.open_request(1, policy=policy, candidates=names)).cohort == (
        first.cohort
    )  # by insecure_seed
    assert driver.refused(fleet.open_request(3, candidates=names[:1])) == "below_min_cohort"


def test_seeds_are_unpredictable_without_an_insecure_seed(fleet: Fleet) -> None:
    seeds = set()
    for _ in range(3):
        driver = Driver(fleet, seed=None)
        driver.ask(fleet.configure())
        opened, released = driver.run_round(fleet.open_request())
        seeds.add(driver.receipt(released, opened.claims).seed)
    assert len(seeds) == 3


def test_the_old_owner_is_refused_after_a_change(fleet: Fleet, driver: Driver) -> None:
    keys = [SigningKey.generate(DEFAULT) for _ in range(3)]
    manifest = replace(fleet.manifest, version=2)
    owned, signed = handed_over(manifest, fleet.owner, 2, keys)
    few = replace(owned, signatures=owned.signatures[:1])
    assert driver.refused(Configure(few.to_bytes())) == "bad_signature"
    changed = driver.ask(Configure(signed))
    assert isinstance(changed, Standing)
    assert changed.manifest == signing.manifest_of(owned).digest
    assert driver.refused(fleet.configure(version=3)) == "rollback"
    driver.restart()
    assert driver.refused(fleet.configure(version=3)) == "rollback"
    assert driver.ask(Configure(signed)) == changed


def test_an_expired_manifest_opens_no_round(fleet: Fleet, driver: Driver) -> None:
    driver.ask(fleet.configure(version=2, expires=1_001))
    assert driver.refused(fleet.open_request(opened_at=1_001)) == "expired_manifest"
    driver.opened(fleet.open_request(opened_at=1_000))


def test_manifests_only_go_forward(fleet: Fleet, driver: Driver) -> None:
    opened = driver.opened(fleet.open_request())
    standing = driver.ask(fleet.configure())
    assert isinstance(standing, Standing)
    assert standing.open_round == 1
    assert driver.refused(fleet.configure(expires=2**41)) == "rollback"
    other = Fleet(count=0)
    assert driver.refused(other.configure()) == "bad_signature"
    standing = driver.ask(fleet.configure(version=2))
    assert isinstance(standing, Standing)
    assert standing.open_round == 0
    assert driver.refused(fleet.admit(0, opened.claims)) == "round_closed"
    assert driver.refused(fleet.configure()) == "rollback"
    driver.restart()
    assert driver.refused(fleet.configure()) == "rollback"
    driver.run_round(fleet.open_request(2))


def test_before_configure_nothing_is_done(fleet: Fleet) -> None:
    driver = Driver(fleet)
    standing = driver.ask(Ask())
    assert isinstance(standing, Standing)
    assert (standing.manifest, standing.open_round, standing.released_round) == (ZERO, 0, 0)
    assert driver.refused(fleet.open_request()) == "policy_not_allowed"
    assert driver.refused(Admit(b"", b"")) == "round_closed"
    assert driver.refused(Release(1)) == "round_closed"


def test_foreign_state_is_our_own_fault(fleet: Fleet, driver: Driver) -> None:
    assert driver.disk is not None
    with pytest.raises(LocalFault, match="sealed state"):
        fleet.machine(driver.disk[:-1])
    with pytest.raises(LocalFault, match="owner key and fleet"):
        Fleet(count=0).machine(driver.disk)


def test_secrets_do_not_show(fleet: Fleet, driver: Driver) -> None:
    driver.opened(fleet.open_request())
    state = driver.machine._state
    for secret in (state.signing_seed, state.seed_secret):
        assert repr(secret)[2:-1] not in repr(state) + repr(vars(driver.machine))
    assert isinstance(RoundOpened.parse(state.opened.reply if state.opened else b""), RoundOpened)


def test_every_phase_can_be_left_and_asked() -> None:
    for phase in Phase:
        assert (phase, Ask) in TRANSITIONS
        assert any(p is phase and targets - {phase} for (p, _), targets in TRANSITIONS.items())


def test_frames_have_ceilings_that_follow_the_model(fleet: Fleet, driver: Driver) -> None:
    machine = driver.machine
    assert machine.refuse_oversize(Admit, 10**6).reason == "round_closed"
    opened = driver.opened(fleet.open_request())
    admit = fleet.admit(0, opened.claims)
    assert len(admit.to_bytes()) <= machine.frame_ceiling(Admit) < 2**15
    assert len(fleet.open_request().to_bytes()) <= machine.frame_ceiling(OpenRound)
    assert machine.refuse_oversize(Admit, 10**6).reason == "too_large"
    assert machine.refuse_oversize(None, 10**6).reason == "malformed"
    assert opened.claims.fleet == FLEET
    with pytest.raises(PeerFault):
        type(admit).parse(b"")

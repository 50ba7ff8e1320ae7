"""A host that brings back an older sealed state, or runs two enclaves from one."""

import pytest

from enclave.evidence.insecure_simulated import InsecureSimulated
from qflare.enclave_wire import Admit, Admitted, Refused, Release, Released, RoundOpened
from tests.enclave_kit import Driver, Fleet, after
from tests.lineage_kit import Uncounted, Witness, machine


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


def opened(fleet: Fleet, kind: type[InsecureSimulated]) -> tuple[Driver, RoundOpened, bytes]:
    """An enclave with an open round, and the disk as it was then."""
    driver = Driver(fleet)
    driver.machine = machine(fleet, kind)
    driver.ask(fleet.configure())
    reply = driver.opened(fleet.open_request())
    assert driver.disk is not None
    return driver, reply, driver.disk


def release_with(driver: Driver, admits: list[Admit]) -> object:
    for admit in admits:
        driver.ask(admit)
    return driver.ask(Release(1))


def test_no_update_is_in_two_aggregates_where_no_counter_is(fleet: Fleet) -> None:
    """Two aggregates that differ by one update would be that update."""
    driver, round_, disk = opened(fleet, Uncounted)
    admits = [fleet.admit(number, round_.claims) for number in range(3)]
    assert isinstance(release_with(driver, admits[:2]), Released)
    driver.machine = machine(fleet, Uncounted, disk)
    assert [driver.refused(admit) for admit in admits] == ["round_closed"] * 3
    reply = driver.ask(Release(1))
    assert isinstance(reply, Refused)
    assert driver.refused(fleet.open_request()) == "wrong_round"  # the round is spent
    assert driver.opened(fleet.open_request(2)).claims.kem_key != round_.claims.kem_key


def test_the_state_before_the_round_opens_it_with_another_key(fleet: Fleet) -> None:
    driver = Driver(fleet)
    driver.machine = machine(fleet)
    driver.ask(fleet.configure())
    before = driver.disk
    first = driver.opened(fleet.open_request())
    admits = [fleet.admit(number, first.claims) for number in range(4)]
    released = release_with(driver, admits[:2])
    assert isinstance(released, Released)
    driver.machine = machine(fleet, Uncounted, before)
    second = driver.opened(fleet.open_request())  # nothing inside can tell
    assert [driver.refused(admit) for admit in admits] == ["wrong_offer"] * 4
    fresh = [fleet.admit(number, second.claims) for number in range(4)]  # of devices that slept
    again = release_with(driver, fresh)
    assert isinstance(again, Released)
    witness = Witness(fleet)
    witness.manifest(fleet.configure().manifest)
    assert witness.take(first, released) == "taken"
    assert witness.take(second, again) == "equivocation"
    assert witness.take(first, released) == "taken"  # again, and nothing changed


def test_a_machine_from_a_copy_is_refused_by_whoever_saw_the_first(fleet: Fleet) -> None:
    one, first, disk = opened(fleet, Uncounted)
    released = release_with(one, [fleet.admit(n, first.claims) for n in range(2)])
    assert isinstance(released, Released)
    two = Driver(fleet)
    two.machine = machine(fleet, Uncounted, disk)  # both have one signing key
    second, other = two.run_round(fleet.open_request(2))
    witness = Witness(fleet)
    witness.manifest(fleet.configure().manifest)
    assert witness.take(first, released) == "taken"
    assert witness.take(second, other) == "equivocation"
    third, last = one.run_round(fleet.open_request(3, **after(first, released)))
    assert witness.take(third, last) == "taken"


def test_the_simulated_platform_keeps_a_round_and_can_be_rewound(fleet: Fleet) -> None:
    """So that nobody believes more of it than it says: it is insecure."""
    driver, round_, disk = opened(fleet, InsecureSimulated)
    admits = [fleet.admit(number, round_.claims) for number in range(3)]
    first = release_with(driver, admits[:2])
    driver.machine = machine(fleet, InsecureSimulated, disk)
    assert isinstance(driver.ask(admits[0]), Admitted)
    second = release_with(driver, admits[1:])
    assert isinstance(first, Released)
    assert isinstance(second, Released)
    witness = Witness(fleet)
    witness.manifest(fleet.configure().manifest)
    assert witness.take(round_, first) == "taken"
    assert witness.take(round_, second) == "equivocation"

"""With an epoch ends its KEM key: of all that was on disk and wire, nothing opens then."""

import gc
from collections.abc import Callable

import pytest

from enclave.evidence.insecure_simulated import InsecureSimulated
from enclave.state import State
from qflare.crypto.keys import KemPrivateKey
from qflare.crypto.suites import DEFAULT
from qflare.enclave_wire import Release, Released
from qflare.envelope import Update
from qflare.faults import PeerFault
from qflare.messages import BLOB_MAX
from tests.enclave_kit import MEASUREMENT, PLATFORM_KEY, Driver, Fleet
from tests.lineage_kit import Uncounted, machine


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


class Captured:
    """A round, with every state that was on the disk and every update on the wire."""

    def __init__(self, fleet: Fleet, kind: type[InsecureSimulated]) -> None:
        self.driver = Driver(fleet)
        self.driver.machine = machine(fleet, kind)
        self.disks: list[bytes] = []
        self.driver.on_effect = lambda _: self.disks.append(self.driver.disk or b"")
        self.driver.ask(fleet.configure())
        opened = self.driver.opened(fleet.open_request())
        admits = [fleet.admit(number, opened.claims) for number in range(3)]
        self.updates = [admit.update for admit in admits]
        for admit in admits:
            self.driver.ask(admit)

    def opens(self) -> int:
        """How many captured updates open with what the captured states hold, unsealed by the
        platform's own key: more than any thief of a disk has."""
        platform, found = InsecureSimulated(MEASUREMENT, PLATFORM_KEY), 0
        for disk in filter(None, self.disks):
            opened = State.restore(platform.unseal(disk)).opened
            if opened is None:
                continue
            key = KemPrivateKey.from_seed(DEFAULT, opened.kem_seed)
            for update in self.updates:
                Update.parse(update, BLOB_MAX).open(key)
                found += 1
        return found


def release(fleet: Fleet, driver: Driver) -> None:
    assert isinstance(driver.ask(Release(1)), Released)


def next_round(fleet: Fleet, driver: Driver) -> None:
    driver.opened(fleet.open_request(2))


def next_manifest(fleet: Fleet, driver: Driver) -> None:
    driver.ask(fleet.configure(version=2))


ENDS = [release, next_round, next_manifest]


@pytest.mark.parametrize("end", ENDS)
def test_nothing_that_was_captured_opens(
    fleet: Fleet, end: Callable[[Fleet, Driver], None]
) -> None:
    captured = Captured(fleet, Uncounted)
    assert captured.opens() == 0  # not even while the round is open
    end(fleet, captured.driver)
    assert captured.opens() == 0


def test_the_simulated_platform_keeps_old_states_openable(fleet: Fleet) -> None:
    """By whoever has its key file and kept a state: so it says, and its name says it."""
    captured = Captured(fleet, InsecureSimulated)
    release(fleet, captured.driver)
    assert captured.opens() >= 3
    # What is on the disk now, and not what somebody kept of it, has no key.
    captured.disks = captured.disks[-1:]
    assert captured.opens() == 0


@pytest.mark.parametrize("end", [release, next_manifest])
def test_no_key_object_outlives_its_epoch(
    fleet: Fleet, end: Callable[[Fleet, Driver], None]
) -> None:
    driver = Captured(fleet, Uncounted).driver
    desk = driver.machine._desk
    assert desk is not None
    raw = desk.context.kem_key.public.raw
    del desk

    def alive() -> int:
        gc.collect()
        found = (it for it in gc.get_objects() if isinstance(it, KemPrivateKey))
        return sum(it.public.raw == raw for it in found)

    assert alive() == 1
    end(fleet, driver)
    assert alive() == 0
    assert driver.machine._state.opened is None


def test_a_key_of_another_epoch_opens_nothing(fleet: Fleet) -> None:
    captured = Captured(fleet, Uncounted)
    next_round(fleet, captured.driver)
    desk = captured.driver.machine._desk
    assert desk is not None
    for update in captured.updates:
        with pytest.raises(PeerFault, match="cannot_open"):
            Update.parse(update, BLOB_MAX).open(desk.context.kem_key)

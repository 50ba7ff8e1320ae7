"""Tallies and who would like to know, or inflate, them: what comes out of the enclave is sums."""

import gc
from dataclasses import replace
from types import ModuleType

import pytest

from enclave.evidence.insecure_simulated import InsecureSimulated
from qflare import codec
from qflare.enclave_wire import Admit, Admitted, Release
from qflare.faults import PeerFault
from qflare.messages import RoundReceipt
from qflare.tallies import LOSS_MAX, Tallies, add, zeros
from tests.enclave_kit import CLASSES, MEASUREMENT, PLATFORM_KEY, Driver, Fleet, after


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def driver(fleet: Fleet) -> Driver:
    made = Driver(fleet)
    made.ask(fleet.configure())
    return made


def total(fleet: Fleet, *numbers: int) -> Tallies:
    out = zeros(CLASSES)
    for number in numbers:
        out = add(out, fleet.tallies(number))
    return out


def test_the_receipt_carries_the_sums_of_those_who_are_in(fleet: Fleet, driver: Driver) -> None:
    opened = driver.opened(fleet.open_request())
    for number in (2, 0, 3):
        admit = fleet.admit(number, opened.claims)
        driver.ask(admit)
        driver.ask(admit)  # a copy isn't counted again
    receipt = driver.receipt(driver.released(1), opened.claims)
    assert receipt.admitted == 3
    assert receipt.tallies == total(fleet, 0, 2, 3)


def test_the_next_round_begins_at_nothing(fleet: Fleet, driver: Driver) -> None:
    opened, released = driver.run_round(fleet.open_request())
    second, again = driver.run_round(fleet.open_request(2, **after(opened, released)))
    assert driver.receipt(again, second.claims).tallies == total(fleet, 0, 1, 2, 3)


def test_a_device_without_validation_samples_changes_nothing(fleet: Fleet, driver: Driver) -> None:
    opened = driver.opened(fleet.open_request())
    for number in (0, 1):
        driver.ask(fleet.admit(number, opened.claims))
    device = fleet.devices[2]
    silent = replace(fleet.payload(2), tallies=zeros(CLASSES))
    driver.ask(Admit(device.certificate, device.seal(opened.claims, silent)))
    receipt = driver.receipt(driver.released(1), opened.claims)
    assert receipt.admitted == 3
    assert receipt.tallies == total(fleet, 0, 1)


@pytest.mark.parametrize("killed_after", range(5))
def test_killed_and_resumed_it_releases_the_same(
    fleet: Fleet, driver: Driver, killed_after: int
) -> None:
    """What was added is forgotten with the process, and added again when the coordinator repeats
    it; nothing is lost or doubled, and the model is the same bit for bit."""
    opened = driver.opened(fleet.open_request())
    admits = [fleet.admit(number, opened.claims) for number in range(4)]
    other = Driver(fleet)
    other.machine = fleet.machine(driver.disk)
    for admit in admits:
        other.ask(admit)
    undisturbed = other.receipt(other.released(1), opened.claims)
    for admit in admits[:killed_after]:
        driver.ask(admit)
    driver.restart()
    for admit in reversed(admits):
        assert isinstance(driver.ask(admit), Admitted)
    resumed = driver.receipt(driver.released(1), opened.claims)
    assert resumed == undisturbed
    assert resumed.tallies == total(fleet, 0, 1, 2, 3)
    driver.restart()
    assert driver.receipt(driver.released(1), opened.claims) == undisturbed


class TestInflation:
    """A device in the wrong hands can't weigh more in the figures than it does in the model."""

    cap = 100

    @pytest.mark.parametrize(
        "lie",
        [
            (cap + 1, 0, 0, *zeros(CLASSES)[3:]),
            (cap, 0, 0, 1, 0, 0, *zeros(CLASSES)[6:]),  # over the cap only taken together
            (2**63, 2**63, 2**63, *zeros(CLASSES)[3:]),
            (10, 11, 0, *zeros(CLASSES)[3:]),
            (10, 0, 11, *zeros(CLASSES)[3:]),
            (10, -1, 0, *zeros(CLASSES)[3:]),
            (-10, -10, -10, *zeros(CLASSES)[3:]),
            (10, 0, 0, 0, 5, 0, *zeros(CLASSES)[6:]),  # right in a class that it never saw
            (10, 0, 0, 0, 0, 0, 0, 0, 0, 10 * LOSS_MAX + 1, 0),
            (10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10 * LOSS_MAX + 1),
            (10, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0),
            zeros(CLASSES + 1),
            zeros(CLASSES - 1),
            (),
        ],
    )
    def test_refused_and_without_a_trace(self, fleet: Fleet, driver: Driver, lie: Tallies) -> None:
        assert fleet.policy.weight_cap == self.cap
        opened = driver.opened(fleet.open_request())
        for number in (0, 1):
            driver.ask(fleet.admit(number, opened.claims))
        liar = fleet.devices[2]
        payload = replace(fleet.payload(2), tallies=lie)
        update = liar.seal(opened.claims, payload)
        assert driver.refused(Admit(liar.certificate, update)) == "bad_tallies"
        receipt = driver.receipt(driver.released(1), opened.claims)
        assert receipt.refused == (("bad_tallies", 1),)
        assert receipt.tallies == total(fleet, 0, 1)

    def test_at_most_it_says_as_much_as_the_cap(self, fleet: Fleet, driver: Driver) -> None:
        opened = driver.opened(fleet.open_request())
        driver.ask(fleet.admit(0, opened.claims))
        liar = fleet.devices[2]
        most = (self.cap, self.cap, 0, *zeros(CLASSES)[3:-2], 0, self.cap * LOSS_MAX)
        payload = replace(fleet.payload(2), tallies=most)
        driver.ask(Admit(liar.certificate, liar.seal(opened.claims, payload)))
        receipt = driver.receipt(driver.released(1), opened.claims)
        assert receipt.tallies == add(total(fleet, 0), most)

    @pytest.mark.parametrize("strange", [(1.0,) * 11, (True,) * 11, (b"1",) * 11, (None,) * 11])
    def test_only_whole_numbers(
        self, fleet: Fleet, driver: Driver, strange: tuple[object, ...]
    ) -> None:
        opened = driver.opened(fleet.open_request())
        liar = fleet.devices[2]
        payload = replace(fleet.payload(2), tallies=strange)  # type: ignore[arg-type]
        update = liar.seal(opened.claims, payload)
        assert driver.refused(Admit(liar.certificate, update)) == "malformed"


class TestCuriosity:
    """Whoever sees everything that enters and leaves the enclave, and all that it keeps."""

    @pytest.fixture
    def seen(self, fleet: Fleet, driver: Driver) -> list[bytes]:
        """All bytes of a round: requests, replies, and every state that was persisted, opened."""
        platform, out = InsecureSimulated(MEASUREMENT, PLATFORM_KEY), []
        opened = driver.opened(fleet.open_request())
        for number in range(fleet.count):
            admit = fleet.admit(number, opened.claims)
            out += [admit.to_bytes(), driver.ask(admit).to_bytes()]
            assert driver.disk is not None
            out.append(platform.unseal(driver.disk))
        out.append(driver.ask(Release(1)).to_bytes())
        out.append(platform.unseal(driver.disk))
        return out

    def test_nothing_but_sums_is_ever_said_or_written(
        self, fleet: Fleet, seen: list[bytes]
    ) -> None:
        sums = codec.encode(list(total(fleet, *range(fleet.count))))
        assert sum(sums in data for data in seen) == 2  # the search finds what is there
        for number in range(fleet.count):
            single = codec.encode(list(fleet.tallies(number)))
            assert not any(single in data for data in seen)
            others = (n for n in range(fleet.count) if n != number)
            assert codec.encode(list(total(fleet, *others))) not in b"".join(seen)

    def test_nothing_but_sums_is_kept_in_memory(self, fleet: Fleet, driver: Driver) -> None:
        opened = driver.opened(fleet.open_request())
        for number in range(fleet.count):
            driver.ask(fleet.admit(number, opened.claims))
        held = reachable(driver.machine)
        assert total(fleet, *range(fleet.count)) in held
        for number in range(fleet.count):
            assert fleet.tallies(number) not in held


def reachable(root: object) -> list[tuple[object, ...]]:
    """Every tuple that can be reached from an object without going through code."""
    seen: set[int] = set()
    waiting, found = [root], []
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType) or callable(item):
            continue
        seen.add(id(item))
        if isinstance(item, tuple):
            found.append(item)
        waiting += gc.get_referents(item)
    return found


def test_a_receipt_without_whole_rows_cannot_be_parsed(fleet: Fleet, driver: Driver) -> None:
    opened, released = driver.run_round(fleet.open_request())
    value = driver.receipt(released, opened.claims).to_value()
    assert isinstance(value[-1], list)
    for bad in ([], value[-1][:-1], [*value[-1], 0], [-1, *value[-1][1:]]):
        with pytest.raises(PeerFault):
            RoundReceipt.from_value([*value[:-1], bad])

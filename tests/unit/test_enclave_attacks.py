"""What devices and a coordinator that lie can try at the door, and what each try is called."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from cryptography import x509

from qflare import codec
from qflare.crypto.suites import Aead
from qflare.enclave_wire import Admit, Admitted, Ask, Release, RoundOpened, Standing
from qflare.messages import UpdateHeader, UpdatePayload
from qflare.names import Digest
from qflare.tallies import zeros
from tests.enclave_kit import CLASSES, SIZE, Driver, Fleet, after

NONE = zeros(CLASSES)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def driver(fleet: Fleet) -> Driver:
    made = Driver(fleet)
    made.ask(fleet.configure())
    return made


@pytest.fixture
def opened(fleet: Fleet, driver: Driver) -> RoundOpened:
    return driver.opened(fleet.open_request())


@pytest.fixture(autouse=True)
def _honest_updates_still_count(
    fleet: Fleet, driver: Driver, opened: RoundOpened
) -> Iterator[None]:
    """Whatever was tried on round 1: if it is open and empty, honest devices still complete it."""
    yield
    standing = driver.ask(Ask())
    assert isinstance(standing, Standing)
    if (standing.open_round, standing.admitted) != (1, 0):
        return
    for number in range(fleet.count):
        assert isinstance(driver.ask(fleet.admit(number, opened.claims)), Admitted)
    assert driver.receipt(driver.released(1), opened.claims).admitted == fleet.count


def test_update_for_an_older_epoch(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    old = replace(opened.claims, epoch=opened.claims.epoch + 1)
    assert driver.refused(fleet.admit(0, old)) == "stale_epoch"


def test_update_for_another_round(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    assert driver.refused(fleet.admit(0, replace(opened.claims, round=2))) == "wrong_round"


def test_update_that_answers_other_claims(
    fleet: Fleet, driver: Driver, opened: RoundOpened
) -> None:
    other = replace(opened.claims, model=Digest.of(b"another model"))
    assert driver.refused(fleet.admit(0, other)) == "wrong_offer"


def test_update_for_another_fleet(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    other = replace(opened.claims, fleet=type(opened.claims.fleet)("other"))
    assert driver.refused(fleet.admit(0, other)) == "wrong_fleet"


def test_replayed_from_the_last_round(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    admits = [fleet.admit(number, opened.claims) for number in range(4)]
    for admit in admits:
        driver.ask(admit)
    released = driver.released(1)
    driver.opened(fleet.open_request(2, **after(opened, released)))
    assert driver.refused(admits[0]) == "wrong_round"
    driver.restart()
    assert driver.refused(admits[0]) == "wrong_round"
    driver.opened(fleet.open_request(3, **after(opened, released)))
    assert driver.ask(Release(1)).to_bytes() == released.to_bytes()


def test_moved_between_devices(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    thief, victim = fleet.devices[0], fleet.devices[3]
    stolen = fleet.admit(3, opened.claims)
    assert driver.refused(Admit(thief.certificate, stolen.update)) == "bad_certificate"
    header, _, sealed = codec.decode(stolen.update, 10**6)  # type: ignore[misc]
    assert isinstance(header, bytes)
    signature = thief.key.sign("update-header", header)
    forged = codec.encode([header, signature.raw, sealed])
    assert driver.refused(Admit(victim.certificate, forged)) == "bad_signature"
    renamed = thief.seal(opened.claims, fleet.payload(0), device=victim.name)
    assert driver.refused(Admit(thief.certificate, renamed)) == "bad_certificate"
    # The thief signs a header of its own over the victim's sealed part.
    mine = replace(
        UpdateHeader.parse(header), device=thief.name, certificate=thief.fingerprint
    ).to_bytes()
    moved = codec.encode([mine, thief.key.sign("update-header", mine).raw, sealed])
    assert driver.refused(Admit(thief.certificate, moved)) == "cannot_open"


def test_certificates_that_do_not_count(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    stranger = Fleet(count=1).devices[0]  # same fleet name, another CA
    sealed = stranger.seal(opened.claims, fleet.payload(0))
    assert driver.refused(Admit(stranger.certificate, sealed)) == "bad_certificate"
    garbage = fleet.devices[0].seal(
        opened.claims, fleet.payload(0), certificate=Digest.of(b"garbage")
    )
    assert driver.refused(Admit(b"garbage", garbage)) == "malformed"
    assert driver.refused(Admit(b"\0" * 10_000, garbage)) == "too_large"


def test_revoked(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    serial = x509.load_der_x509_certificate(fleet.devices[0].certificate).serial_number
    raw = serial.to_bytes(20, "big")
    driver.ask(fleet.configure(version=2, revoked=(raw,)))
    claims = driver.opened(fleet.open_request(2)).claims
    assert driver.refused(fleet.admit(0, claims)) == "revoked"
    assert isinstance(driver.ask(fleet.admit(1, claims)), Admitted)


@pytest.mark.parametrize(
    ("weight", "encoded", "reason"),
    [
        (0, None, "bad_weight"),
        (-5, None, "bad_weight"),
        (101, None, "bad_weight"),
        (2**63, None, "bad_weight"),
        (10, b"", "wrong_shape"),
        (10, b"\x00" * (2 * 2 + SIZE - 1), "wrong_shape"),
        (10, b"\x00" * (2 * 2 + SIZE + 1), "too_large"),
        (10, b"\xff\xff" * 2 + b"\x7f" * SIZE, "bad_value"),  # scales beyond any finite value
        (10, b"\x00\xa8" * 2 + b"\x7f" * SIZE, "norm_too_large"),
    ],
)
def test_a_valid_device_that_lies_inside_the_seal(
    fleet: Fleet,
    driver: Driver,
    opened: RoundOpened,
    weight: int,
    encoded: bytes | None,
    reason: str,
) -> None:
    device = fleet.devices[0]
    body = fleet.payload(0).encoded if encoded is None else encoded
    update = device.seal(opened.claims, UpdatePayload(weight, body, NONE))
    assert driver.refused(Admit(device.certificate, update)) == reason
    standing = dict(driver.machine._desk.refused) if driver.machine._desk else {}
    assert standing == {reason: 1}


def test_nan_and_infinity_cannot_be_said(fleet: Fleet) -> None:
    driver = Driver(fleet)
    driver.ask(fleet.configure())
    policy = replace(fleet.policy, codec="fixed32")
    claims = driver.opened(fleet.open_request(policy=policy)).claims
    device = fleet.devices[0]
    for value in (np.nan, np.inf, -np.inf):
        lie = np.full(SIZE, value, "<f4").tobytes()  # as whole numbers: far above the clip norm
        update = device.seal(claims, UpdatePayload(10, lie, NONE))
        assert driver.refused(Admit(device.certificate, update)) == "norm_too_large"


def test_a_weight_that_is_no_whole_number(
    fleet: Fleet, driver: Driver, opened: RoundOpened
) -> None:
    device = fleet.devices[0]
    payload = UpdatePayload(1.5, fleet.payload(0).encoded, NONE)  # type: ignore[arg-type]
    update = device.seal(opened.claims, payload)
    assert driver.refused(Admit(device.certificate, update)) == "malformed"


def test_just_within_the_clip_norm_counts_and_one_unit_more_does_not(fleet: Fleet) -> None:
    driver = Driver(fleet)
    driver.ask(fleet.configure())
    policy = replace(fleet.policy, codec="fixed32", clip_norm=2.0)
    claims = driver.opened(fleet.open_request(policy=policy)).claims
    units = np.zeros(SIZE, "<i4")
    units[17] = 2 * 2**24 + 1
    over = fleet.devices[0].seal(claims, UpdatePayload(1, units.tobytes(), NONE))
    assert driver.refused(Admit(fleet.devices[0].certificate, over)) == "norm_too_large"
    units[17] -= 1
    at = fleet.devices[0].seal(claims, UpdatePayload(1, units.tobytes(), NONE))
    assert isinstance(driver.ask(Admit(fleet.devices[0].certificate, at)), Admitted)


def test_once_and_only_once(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    admit = fleet.admit(0, opened.claims)
    first, second = driver.ask(admit), driver.ask(admit)
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert (first.again, second.again) == (False, True)
    assert driver.refused(fleet.admit(0, opened.claims)) == "duplicate"  # sealed anew
    other = fleet.admit(0, opened.claims, aead=Aead.CHACHA20_POLY1305)
    assert driver.refused(other) == "duplicate"


def test_full(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    claims = driver.opened(fleet.open_request(2, policy=replace(fleet.policy, max_cohort=2))).claims
    for number in (0, 1):
        driver.ask(fleet.admit(number, claims))
    assert driver.refused(fleet.admit(2, claims)) == "cohort_full"


def test_damaged_anywhere(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    good = fleet.admit(0, opened.claims)
    for at in range(0, len(good.update), 97):
        bad = bytearray(good.update)
        bad[at] ^= 0x10
        driver.refused(Admit(good.certificate, bytes(bad)))
    driver.refused(Admit(good.certificate, good.update[:-1]))
    assert driver.refused(Admit(good.certificate, good.update * 5)) == "too_large"


def test_copies_that_race_count_once(fleet: Fleet, driver: Driver, opened: RoundOpened) -> None:
    admits = [fleet.admit(number, opened.claims) for number in range(4)] * 4
    replies: list[object] = []
    gate = threading.Barrier(8)

    def work(mine: list[Admit]) -> None:
        gate.wait()
        replies.extend(driver.machine.handle(admit)[-1].message for admit in mine)  # type: ignore[union-attr]

    threads = [threading.Thread(target=work, args=(admits[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = [r for r in replies if isinstance(r, Admitted) and not r.again]
    assert len(fresh) == 4
    assert len(replies) == 16
    assert all(isinstance(r, Admitted) for r in replies)

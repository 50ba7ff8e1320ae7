"""A device's certificate is renewed before it ends: office, coordinator, device, each by itself."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.enrolment.judge import Status
from coordinator.events import EnclaveDown, EnclaveUp, RenewCertificate
from edge_runtime import certificate_file
from edge_runtime import events as ev
from edge_runtime.renewal import verify_renewed
from qflare.crypto.certificates import verify_device
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import CertificateRenewed
from qflare.faults import PeerFault, Reason
from qflare.messages import DeviceHello
from qflare.names import DeviceId
from qflare.topics import Down, Up, UpTopic
from tests.edge_lab import DEVICE, FLEET, Lab
from tests.edge_pilot import Pilot, trained
from tests.unit import coordinator_rig as rig
from tests.unit.enrol_desk import KEYS, WORLD, Desk, opened, run

NOW = datetime.now(UTC)
CA_KEY, CA = issue_ca(FLEET, DEFAULT, NOW, 1000)
STRANGER_KEY, STRANGER = issue_ca(FLEET, DEFAULT, NOW, 1000)
OTHER = SigningKey.generate(DEFAULT)


def lab() -> Lab:
    """One whose device's certificate is this file's CA's, of ten days."""
    made = Lab()
    made.ca, made.der = CA, issued(made)
    return made


def issued(
    lab: Lab, days: int = 10, name: DeviceId = DEVICE, key: SigningKey | None = None
) -> bytes:
    return issue_device(CA_KEY, CA, name, (key or lab.key).verify_key, NOW, days)


def said(der: bytes) -> bytes:
    return CertificateRenewed(der).to_bytes()


# --- the office ----------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from opened(tmp_path)


def ends(desk: Desk, der: bytes) -> datetime:
    when = datetime.fromtimestamp(desk.now, UTC)
    return verify_device(der, [WORLD.ca], when, rig.FLEET, frozenset()).not_after


def test_a_device_that_was_let_in_gets_the_same_name_and_key_for_longer(desk: Desk) -> None:
    ticket = desk.ticket()
    grant = run(desk, ticket)
    name = grant.name
    desk.now += 25 * 86_400
    renewed = desk.office.renew(name, desk.now)
    assert renewed is not None
    der = CertificateRenewed.parse(renewed).certificate
    when = datetime.fromtimestamp(desk.now, UTC)
    found = verify_device(der, [WORLD.ca], when, rig.FLEET, frozenset())
    assert (found.device, found.verify_key) == (name, KEYS[0].device.verify_key)
    assert ends(desk, der) - ends(desk, grant.certificate) > timedelta(days=24)
    claim = desk.register.find(ticket.token)[1]
    assert claim is not None
    assert (claim.certificate, claim.former) == (der, grant.certificate)  # both are to be revoked
    desk.restart()
    assert desk.office.renew(name, desk.now + 60) == renewed  # it may not have got it


def test_one_that_was_put_out_or_never_let_in_gets_none(desk: Desk) -> None:
    ticket = desk.ticket()
    grant = run(desk, ticket)
    assert desk.office.renew(DeviceId("somebody"), desk.now) is None
    desk.register.decide(ticket.token, Status.CLOSED, desk.now)
    assert desk.office.renew(grant.name, desk.now) is None


# --- the coordinator -----------------------------------------------------------------------------

WORLD_OF_ROUNDS = rig.World()


def hello(it: rig.Rig, name: str, der: bytes) -> list[object]:
    topic = UpTopic(rig.FLEET, DeviceId(name), Up.HELLO)
    event = rig.Received(rig.build(topic), DeviceHello(der, 7).to_bytes())
    return list(it.machine.handle(event, it.now))


@pytest.mark.parametrize(("day", "asked"), [(30, False), (40, True), (60, True)])
def test_the_last_third_of_a_certificate_is_when_it_is_renewed(
    tmp_path: Path, day: int, asked: bool
) -> None:
    it = rig.Rig(WORLD_OF_ROUNDS, tmp_path)
    _, der = WORLD_OF_ROUNDS.identity("dev-0")  # of fifty days
    it.now += day * 86_400
    for _ in range(2):  # when it is registered, and when it is known; or has ended already
        it.now += 60
        effects = hello(it, "dev-0", der)
        assert (RenewCertificate(DeviceId("dev-0")) in effects) is asked


def test_a_forged_certificate_is_not_renewed(tmp_path: Path) -> None:
    it = rig.Rig(WORLD_OF_ROUNDS, tmp_path)
    began = datetime.fromtimestamp(it.now, UTC)
    key, ca = issue_ca(rig.FLEET, DEFAULT, began, 1000)
    der = issue_device(key, ca, DeviceId("dev-0"), OTHER.verify_key, began, 1)
    it.now += 2 * 86_400
    assert not any(isinstance(effect, RenewCertificate) for effect in hello(it, "dev-0", der))


def test_an_update_stands_under_the_certificate_that_it_was_made_with(tmp_path: Path) -> None:
    """Renewed in the midst of a round, and the enclave asks for everything again: it all counts."""
    world = rig.World()
    it = rig.Rig(world, tmp_path)
    first, silent = it.devices[DeviceId("dev-0")], it.devices[DeviceId("dev-2")]
    for device in it.devices.values():
        device.greet()
    silent.online = False  # it is invited, and holds the round open
    it.run(lambda: len(it.enclave.admitted) == 2)
    key, old = world.identity("dev-0")
    new = issue_device(world.ca_key, world.ca, first.name, key.verify_key, world.began, 90)
    world.identities["dev-0"] = (key, new)
    first.greet()
    it.run(lambda: not it.events)
    it.asked.clear()
    it.enclave.admitted.clear()
    it.events += [EnclaveDown(), EnclaveUp()]
    silent.online = True
    it.run(it.done)
    used = [
        (request.round, request.certificate)
        for request in it.asked
        if isinstance(request, rig.AdmitUpdate) and request.device == "dev-0"
    ]
    assert {certificate for round_, certificate in used if round_ == 1} == {old}
    assert {certificate for round_, certificate in used if round_ == 2} == {new}
    it.start()
    known = it.machine.book.registry.get(first.name)
    assert known is not None
    assert known.der == new


# --- the device ----------------------------------------------------------------------------------


def pilot() -> Pilot:
    it = Pilot(lab())
    it.connect()
    return it


def shown(it: Pilot) -> bytes:
    return DeviceHello.parse(it.said(Up.HELLO)[-1]).certificate


def test_a_renewed_certificate_is_kept_then_shown() -> None:
    it = pilot()
    new = issued(it.lab, 90)
    it.down(Down.CERTIFICATE, said(new))
    (use,) = it.of(ev.UseCertificate)
    assert use.certificate == new
    assert shown(it) == new
    kept = it.done.index(use)
    assert all("hello" not in getattr(e, "topic", "") for e in it.done[kept - 1 : kept])
    it.down(Down.CERTIFICATE, said(new))  # said twice, used once
    assert len(it.of(ev.UseCertificate)) == 1
    assert not it.reasons()


def test_it_waits_while_an_update_stands_under_the_old_one() -> None:
    it = pilot()
    trained(it)
    it.down(Down.CERTIFICATE, said(issued(it.lab, 90)))
    assert not it.of(ev.UseCertificate)
    it.accept()
    assert len(it.of(ev.UseCertificate)) == 1


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("another device", Reason.BAD_CERTIFICATE),
        ("another key", Reason.BAD_CERTIFICATE),
        ("another CA", Reason.BAD_CERTIFICATE),
        ("no longer", Reason.ROLLBACK),
        ("shorter", Reason.ROLLBACK),
        ("revoked", Reason.REVOKED),
    ],
)
def test_what_is_no_renewal_is_refused(what: str, reason: Reason) -> None:
    it = lab()
    good = issued(it, 90)
    serial = verify_device(good, [CA], None, FLEET, frozenset()).serial
    der = {
        "another device": issued(it, 90, DeviceId("dev-2")),
        "another key": issued(it, 90, key=OTHER),
        "another CA": issue_device(STRANGER_KEY, STRANGER, DEVICE, it.key.verify_key, NOW, 90),
        "no longer": issued(it, 10),
        "shorter": issued(it, 1),
        "revoked": good,
    }[what]
    if what == "revoked":
        it.manifest_changes["revoked"] = (serial.to_bytes(20, "big"),)
    with pytest.raises(PeerFault, match=f"^{reason}"):
        verify_renewed(said(der), it.settings(), it.manifest)
    it.manifest_changes.clear()
    assert verify_renewed(said(good), it.settings(), it.manifest) == good


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    it = LAB
    for data in (garbage, said(garbage)):
        with pytest.raises(PeerFault):
            verify_renewed(data, it.settings(), it.manifest)


LAB = lab()


def test_the_kept_one_is_found_again_and_forgotten_with_what_it_renews(tmp_path: Path) -> None:
    assert certificate_file.newest(tmp_path, b"granted") == b"granted"
    certificate_file.keep(tmp_path, b"granted", b"renewed")
    certificate_file.keep(tmp_path, b"granted", b"renewed again")
    assert certificate_file.newest(tmp_path, b"granted") == b"renewed again"
    assert certificate_file.newest(tmp_path, b"enrolled anew") == b"enrolled anew"
    certificate_file.keep(tmp_path, b"enrolled anew", b"longer")
    (only,) = tmp_path.iterdir()
    for at in range(len(data := only.read_bytes())):
        only.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert certificate_file.newest(tmp_path, b"enrolled anew") == b"enrolled anew"
        only.write_bytes(data[:at])
        assert certificate_file.newest(tmp_path, b"enrolled anew") == b"enrolled anew"

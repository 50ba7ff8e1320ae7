"""The device's eye on a grant: for its key, by the owner's CA, and for this very request."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.enrolment.office import Office, Signer
from edge_runtime.enrol import default_name, verify_grant
from edge_runtime.enrol_exchange import Exchange
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT, Aead
from qflare.enrolment import (
    EnrolAnswer,
    EnrolGrant,
    Kind,
    Ticket,
    seal_grant,
)
from qflare.envelope import sign
from qflare.faults import LocalFault
from qflare.names import DeviceId, Digest
from tests.unit.coordinator_rig import FLEET, START
from tests.unit.enrol_desk import (
    BROKERS,
    DAY,
    KEYS,
    OWNER,
    WORLD,
    Desk,
    opened,
    request,
    run,
    terms,
)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from opened(tmp_path)


def grant_for(ticket: Ticket, **changes: Any) -> EnrolGrant:
    made = request(ticket)
    when = WORLD.began
    certificate = issue_device(
        WORLD.ca_key, WORLD.ca, made.name, KEYS[0].device.verify_key, when, 10
    )
    grant = EnrolGrant(
        fleet=FLEET,
        name=made.name,
        request=made.digest,
        certificate=certificate,
        brokers=BROKERS,
        ca=b"",
        user=str(made.name),
        password="secret",
        owner_key=OWNER,
        manifest=WORLD.manifest.digest,
        newer_manifest=b"",
        issued_at=int(START) + 10,
    )
    return replace(grant, **changes)


def test_a_grant_for_another_key_name_owner_or_by_another_ca(desk: Desk) -> None:
    ticket = desk.ticket()
    name = request(ticket).name
    other_ca_key, other_ca = issue_ca(FLEET, DEFAULT, WORLD.began, 10)

    def issued(who: DeviceId, key: SigningKey, ca_key: SigningKey, ca: bytes) -> bytes:
        return issue_device(ca_key, ca, who, key.verify_key, WORLD.began, 10)

    mine = KEYS[0].device
    verify_grant(grant_for(ticket), ticket, mine, START)
    verify_grant(grant_for(ticket), ticket, mine, 0.0)  # a board that lives in 1970
    for changes, said in (
        ({"certificate": issued(name, KEYS[1].device, WORLD.ca_key, WORLD.ca)}, "another key"),
        ({"certificate": issued(name, mine, other_ca_key, other_ca)}, "CA"),
        (
            {"certificate": issued(DeviceId.parse("x"), mine, WORLD.ca_key, WORLD.ca)},
            "certificate of x",
        ),
        ({"certificate": b"\x30\x00"}, "X.509"),
        ({"owner_key": KEYS[1].device.verify_key.raw}, "another owner"),
        ({"user": "somebody"}, "somebody"),
        ({"manifest": Digest(bytes(32))}, "another manifest"),
        ({"newer_manifest": b"x"}, "malformed"),
    ):
        with pytest.raises(LocalFault, match=said):
            verify_grant(grant_for(ticket, **changes), ticket, mine, START)
    with pytest.raises(LocalFault, match="This clock says 2037"):
        verify_grant(grant_for(ticket), ticket, mine, START + 10 * 365 * DAY)


def test_a_manifest_that_moved_on_comes_with_the_grant(desk: Desk) -> None:
    ticket = desk.ticket()
    ca_key, ca = issue_ca(FLEET, DEFAULT, WORLD.began, 50)
    newer = replace(WORLD.manifest, version=2, device_cas=(ca,))
    signed = sign(newer, WORLD.owner)
    signer = Signer(FLEET, WORLD.coordinator, signed, newer.digest, OWNER)
    desk.office = Office(signer, terms(ca_key=ca_key, ca=ca), desk.keyring, desk.register)
    assert run(desk, ticket).newer_manifest == signed
    older = replace(WORLD.manifest, version=1, device_cas=(ca,))
    back = grant_for(ticket, newer_manifest=sign(older, WORLD.owner), manifest=older.digest)
    with pytest.raises(LocalFault, match="rollback"):
        verify_grant(back, ticket, KEYS[0].device, START)


def test_a_grant_moved_to_another_request_does_not_open(desk: Desk) -> None:
    ticket = desk.ticket()
    made = request(ticket)
    sealed = seal_grant(grant_for(ticket), made, WORLD.coordinator, Aead.CHACHA20_POLY1305)
    other = Exchange(ticket, replace(made, nonce=b"n" * 32), KEYS[0])
    other.receive(EnrolAnswer(Kind.GRANT, sealed).to_bytes(), 1.0)
    assert other.grant is None
    stranger = SigningKey.generate(DEFAULT)
    forged = seal_grant(grant_for(ticket), made, stranger, Aead.CHACHA20_POLY1305)
    mine = Exchange(ticket, made, KEYS[0])
    mine.receive(EnrolAnswer(Kind.GRANT, forged).to_bytes(), 1.0)
    assert mine.grant is None
    mine.receive(EnrolAnswer(Kind.GRANT, sealed).to_bytes(), 1.0)
    assert mine.grant is not None


@given(st.text(max_size=70), st.sampled_from(["", "rpi4", "jetson-orin-nano", "-", "a" * 40]))
def test_every_board_has_a_default_name(serial: str, board: str) -> None:
    name = default_name(board, serial, Digest(bytes(32)))
    assert DeviceId.parse(name) == name

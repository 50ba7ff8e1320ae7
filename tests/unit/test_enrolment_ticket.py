"""Fingerprint words, and tickets: verified offline, or refused for what is wrong with them."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import (
    TicketTerms,
    fingerprint_words,
    issue_ticket,
    parse_ticket,
    peek_terms,
)
from qflare.envelope import sign
from qflare.faults import PeerFault, Reason
from qflare.names import Digest, FleetId
from qflare.words import WORDS
from tests.unit.coordinator_rig import START
from tests.unit.enrol_desk import (
    DAY,
    OWNER,
    SIGNED,
    WORLD,
    Desk,
    opened,
)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from opened(tmp_path)


def test_the_words_are_2048_short_ones_and_their_order_stands() -> None:
    assert len(set(WORDS)) == len(WORDS) == 2048
    assert list(WORDS) == sorted(WORDS)
    assert all(3 <= len(word) <= 6 and word.isascii() and word.islower() for word in WORDS)
    assert Digest.of("\n".join(WORDS).encode()).short == "e54dcbe92e17"
    assert fingerprint_words(Digest(bytes(32))) == ("able",) * 6
    assert fingerprint_words(Digest(b"\xff" * 32)) == (WORDS[-1],) * 6
    one = Digest(b"\x00\x3f" + bytes(30))  # 0000000 00001 11111 1: words 1 and 1984
    assert fingerprint_words(one)[:2] == (WORDS[1], WORDS[2047 - 63])


@given(st.integers(0, 65), st.binary(min_size=32, max_size=32))
def test_each_of_the_first_66_bits_shows(bit: int, raw: bytes) -> None:
    number = int.from_bytes(raw, "big") ^ 1 << (255 - bit)
    other = Digest(number.to_bytes(32, "big"))
    assert fingerprint_words(Digest(raw)) != fingerprint_words(other)


def test_a_ticket_is_verified_offline(desk: Desk) -> None:
    ticket = desk.ticket(name="pump-7", board="rpi4", serial="abc")
    again = parse_ticket(ticket.to_bytes(), OWNER, START + DAY - 1)
    assert again == ticket
    assert (again.name, again.board, again.serial) == ("pump-7", "rpi4", "abc")
    assert peek_terms(ticket.to_bytes()) == ticket.terms
    assert ticket.terms.secret.hex() not in repr(ticket)
    assert ticket.terms.password not in repr(ticket.terms)


@pytest.mark.parametrize(
    ("now", "said"), [(START + DAY, "fresh ticket"), (START - 2 * DAY, "set the clock")]
)
def test_a_ticket_has_its_time(desk: Desk, now: float, said: str) -> None:
    with pytest.raises(PeerFault, match=said) as caught:
        parse_ticket(desk.ticket().to_bytes(), OWNER, now)
    assert caught.value.reason is Reason.EXPIRED_TICKET


def test_a_forged_ticket_is_refused(desk: Desk) -> None:
    ticket = desk.ticket()
    stranger = SigningKey.generate(DEFAULT)
    manifest = replace(WORLD.manifest, coordinator_key=stranger.verify_key.raw)
    foreign = replace(ticket.terms, fleet=FleetId.parse("other"))
    for forged, reason in (
        (issue_ticket(ticket.terms, SIGNED, stranger), Reason.BAD_SIGNATURE),
        (issue_ticket(ticket.terms, sign(manifest, stranger), stranger), Reason.BAD_SIGNATURE),
        (issue_ticket(foreign, SIGNED, WORLD.coordinator), Reason.WRONG_FLEET),
        (
            issue_ticket(
                replace(ticket.terms, owner_key=stranger.verify_key.raw), SIGNED, WORLD.coordinator
            ),
            Reason.BAD_SIGNATURE,
        ),
    ):
        with pytest.raises(PeerFault) as caught:
            parse_ticket(forged, OWNER, START)
        assert caught.value.reason is reason
    with pytest.raises(PeerFault):
        parse_ticket(ticket.to_bytes(), stranger.verify_key.raw, START)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_ticket_is_a_peer_fault(desk: Desk, data: st.DataObject) -> None:
    if not (made := getattr(desk, "made", b"")):
        made = desk.made = desk.ticket().to_bytes()  # type: ignore[attr-defined]
    spelled = bytearray(made)
    at = data.draw(st.integers(0, len(spelled) - 1))
    spelled[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(spelled)))
    for damaged in (bytes(spelled), made[:cut], made + bytes(spelled[:cut])):
        if damaged == made:
            continue
        with pytest.raises(PeerFault):
            parse_ticket(damaged, OWNER, START)


@given(st.binary(max_size=200))
def test_garbage_is_no_ticket(data: bytes) -> None:
    for parse in (lambda: parse_ticket(data, OWNER, START), lambda: peek_terms(data)):
        with pytest.raises(PeerFault):
            parse()


@pytest.mark.parametrize(
    "changes",
    [
        {"token": bytes(15)},
        {"secret": bytes(31)},
        {"board": "RPI 4"},
        {"serial": "x\n"},
        {"brokers": ()},
        {"brokers": ("http://x",)},
        {"brokers": ("mqtt://user@x",)},
        {"brokers": ("mqtt://[x",)},
        {"brokers": ("mqtt://x:99999",)},
        {"user": "a b"},
        {"password": ""},
        {"ca": bytes(20_000)},
        {"expires_at": 1},
        {"expires_at": int(START) + 400 * 86_400},
    ],
    ids=str,
)
def test_terms_that_cannot_be(desk: Desk, changes: dict[str, Any]) -> None:
    with pytest.raises(PeerFault):
        TicketTerms.from_value(replace_value(desk.ticket().terms, changes))


def replace_value(said: TicketTerms, changes: dict[str, Any]) -> list[Any]:
    names = [field.name for field in fields(TicketTerms)]
    value = list(said.to_value())
    for name, new in changes.items():
        value[names.index(name)] = list(new) if isinstance(new, tuple) else new
    return value

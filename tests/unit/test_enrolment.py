"""What an attacker can do with a ticket, and what a kill can do to an enrolment."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.database import Store
from coordinator.enrolment.judge import Status, Token
from coordinator.enrolment.office import Reply, make_ticket
from coordinator.enrolment.register import Granted
from coordinator.events import DeviceRegistered
from edge_runtime.enrol_exchange import EnrolmentRefused, Exchange, Keys
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import (
    EnrolAnswer,
    EnrolChallenge,
    EnrolProof,
    EnrolRefused,
    EnrolRequest,
    Kind,
    Refusal,
    parse_ticket,
)
from qflare.envelope import open_signed, sign
from qflare.faults import LocalFault
from qflare.names import DeviceId, FleetId
from tests.unit.coordinator_rig import FLEET, START
from tests.unit.enrol_desk import (
    BROKERS,
    DAY,
    KEYS,
    OWNER,
    SIGNER,
    WORLD,
    Desk,
    opened,
    refused,
    request,
    run,
)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from opened(tmp_path)


def test_a_device_is_let_in_once(desk: Desk) -> None:
    ticket = desk.ticket(name="pump-7")
    grant = run(desk, ticket)
    assert (grant.name, grant.user, grant.brokers) == ("pump-7", "pump-7", BROKERS)
    assert run(desk, ticket) == grant  # the same request: the same grant, to the bit
    assert refused(desk, ticket, KEYS[1]) is Refusal.USED
    fresh = request(ticket, nonce=b"n" * 32)
    assert refused(desk, ticket, nonce=fresh.nonce) is Refusal.USED
    desk.restart()
    assert run(desk, ticket) == grant


@pytest.mark.parametrize(
    ("bound", "changes", "reason"),
    [
        ({"board": "rpi4"}, {"board": "rpi5"}, Refusal.WRONG_BOARD),
        ({"serial": "abc123"}, {"serial": "abc124"}, Refusal.WRONG_SERIAL),
        ({"name": "pump-7"}, {"name": DeviceId.parse("pump-8")}, Refusal.WRONG_NAME),
    ],
)
def test_a_ticket_for_another_board(
    desk: Desk, bound: dict[str, Any], changes: dict[str, Any], reason: Refusal
) -> None:
    ticket = desk.ticket(**bound)
    assert refused(desk, ticket, **changes) is reason
    assert desk.register.entries()[0].claim is None  # and it can still be used by the right one
    run(desk, ticket)


def test_expired_revoked_unknown_and_made_in_the_future(desk: Desk) -> None:
    old, void, ours = desk.ticket(1, life=100.0), desk.ticket(2), desk.ticket(3)
    desk.register.revoke([void.token], desk.now)
    desk.now += 200.0
    assert refused(desk, old) is Refusal.EXPIRED
    assert refused(desk, void) is Refusal.REVOKED
    token = Token(bytes(16), desk.now, desk.now + DAY)
    other = parse_ticket(make_ticket(token, SIGNER, desk.keyring, BROKERS, b""), OWNER, desk.now)
    assert refused(desk, other) is Refusal.UNKNOWN
    desk.now -= 3 * DAY
    reply = desk.say(ours.token, request(ours).to_bytes())
    assert reply is not None
    assert refusal(reply) is Refusal.CLOCK


def refusal(reply: Reply) -> Refusal:
    answer = EnrolAnswer.parse(reply.payload)
    assert answer.kind is Kind.REFUSED
    return open_signed(EnrolRefused, answer.body, WORLD.coordinator.verify_key).reason


def challenge(desk: Desk, made: EnrolRequest) -> EnrolChallenge:
    reply = desk.say(made.token, made.to_bytes())
    assert reply is not None
    answer = EnrolAnswer.parse(reply.payload)
    assert answer.kind is Kind.CHALLENGE
    return open_signed(EnrolChallenge, answer.body, WORLD.coordinator.verify_key)


def test_without_the_secret_and_without_the_key(desk: Desk) -> None:
    ticket = desk.ticket()
    made = request(ticket)
    asked = challenge(desk, made)
    secret = ticket.terms.secret
    guess = EnrolProof.make(made, asked, bytes(32), KEYS[0].device)
    thief = EnrolProof.make(made, asked, secret, KEYS[1].device)  # knows the secret, not the key
    for proof in (guess, thief):
        reply = desk.say(ticket.token, proof.to_bytes())
        assert reply is not None
        assert refusal(reply) is Refusal.BAD_PROOF
    assert desk.register.entries()[0].claim is None
    run(desk, ticket)


def test_a_replayed_proof_gives_nothing_to_whoever_replays_it(desk: Desk) -> None:
    ticket = desk.ticket()
    made = request(ticket)
    proof = EnrolProof.make(made, challenge(desk, made), ticket.terms.secret, KEYS[0].device)
    first = desk.say(ticket.token, proof.to_bytes())
    again = desk.say(ticket.token, proof.to_bytes())
    assert first is not None
    assert again is not None
    assert first.payload == again.payload  # and only the device's own KEM key opens it
    sealed = EnrolAnswer.parse(again.payload).body
    exchange = Exchange(ticket, made, Keys(KEYS[0].device, KEYS[1].kem))
    exchange.receive(again.payload, 1.0)
    assert exchange.grant is None
    assert exchange.ignored == 1
    assert ticket.terms.password.encode() not in sealed
    desk.restart()  # in another life of the coordinator the old challenge is none
    late = desk.say(ticket.token, proof.to_bytes())
    assert late is not None
    assert EnrolAnswer.parse(late.payload).kind is Kind.CHALLENGE
    # A proof with its request taken out for another one.
    other = request(ticket, KEYS[1])
    nonce = desk.keyring.nonce(other.token, other.digest)
    moved = replace(proof, request=other, nonce=nonce)
    reply = desk.say(ticket.token, moved.to_bytes())
    assert reply is not None
    assert refusal(reply) is Refusal.BAD_PROOF


def test_a_swapped_challenge_is_not_answered(desk: Desk) -> None:
    ticket, second = desk.ticket(1), desk.ticket(2)
    mine = request(ticket)
    exchange = Exchange(ticket, mine, KEYS[0])
    exchange.connected(0.0)
    others = desk.say(second.token, request(second, KEYS[1]).to_bytes())
    assert others is not None
    assert exchange.receive(others.payload, 1.0) == []
    stranger = SigningKey.generate(DEFAULT)
    forged = EnrolChallenge(FLEET, ticket.token, mine.digest, bytes(32))
    answer = EnrolAnswer(Kind.CHALLENGE, sign(forged, stranger)).to_bytes()
    assert exchange.receive(answer, 1.0) == []
    no = EnrolRefused(FLEET, ticket.token, mine.digest, Refusal.USED, 0)
    assert exchange.receive(EnrolAnswer(Kind.REFUSED, sign(no, stranger)).to_bytes(), 1.0) == []
    assert exchange.ignored == 3
    # Said to another ticket's topic, the coordinator doesn't hear it.
    assert desk.say(second.token, mine.to_bytes()) is None
    assert desk.office.counters["refused_wrong_topic"] == 1
    elsewhere = replace(mine, fleet=FleetId.parse("other"))
    assert desk.say(ticket.token, elsewhere.to_bytes()) is None
    assert desk.office.counters["refused_wrong_fleet"] == 1


def test_names_are_one_device_s(desk: Desk) -> None:
    name = DeviceId.parse("pump-7")
    first, second = desk.ticket(1, name=name), desk.ticket(2, name=name)
    run(desk, first)
    assert refused(desk, second, KEYS[1]) is Refusal.NAME_TAKEN
    assert desk.register.entries()[1].claim is None
    run(desk, second)  # the same device, which lost its files but for the key
    assert [e.claim and e.claim.status for e in desk.register.entries()] == [
        Status.CLOSED,
        Status.GRANTED,
    ]
    third = desk.ticket(3, name=name, replace=True)
    run(desk, third, KEYS[1])
    accounts = desk.register.accounts(desk.now)
    assert accounts.devices == ((third.token, name),)
    assert refused(desk, second) is Refusal.REVOKED


def test_a_name_that_was_given_without_a_ticket_is_taken_too(tmp_path: Path) -> None:
    _, der = WORLD.identity("dev-1")
    name = DeviceId.parse("dev-1")
    store = Store(tmp_path / "coordinator.db")
    store.commit([DeviceRegistered(name, der, START)])
    store.close()
    desk = Desk(tmp_path)
    assert refused(desk, desk.ticket(1, name="dev-1")) is Refusal.NAME_TAKEN
    run(desk, desk.ticket(2, name="dev-1", replace=True))
    desk.register.close()


def test_the_operator_s_word(tmp_path: Path) -> None:
    desk = Desk(tmp_path, auto=False)
    yes, no = desk.ticket(1), desk.ticket(2)
    proofs = {}
    for ticket, keys in ((yes, KEYS[0]), (no, KEYS[1])):
        made = request(ticket, keys, name=DeviceId.parse(f"d-{ticket.token[0]}"))
        proof = EnrolProof.make(made, challenge(desk, made), ticket.terms.secret, keys.device)
        proofs[ticket.token] = proof.to_bytes()
        for _ in range(2):
            reply = desk.say(ticket.token, proofs[ticket.token])
            assert reply is not None
            assert refusal(reply) is Refusal.AWAITING
    assert refused(desk, yes, KEYS[2]) is Refusal.USED  # whoever proved first waits
    desk.register.decide(yes.token, Status.APPROVED, desk.now)
    desk.register.decide(no.token, Status.DENIED, desk.now)
    granted, denied = (desk.say(t.token, proofs[t.token]) for t in (yes, no))
    assert granted is not None
    assert granted.grant
    assert denied is not None
    assert refusal(denied) is Refusal.DENIED
    with pytest.raises(LocalFault, match="meanwhile"):
        desk.register.decide(no.token, Status.APPROVED, desk.now)
    desk.register.decide(yes.token, Status.CLOSED, desk.now)
    accounts = desk.register.accounts(desk.now)
    assert accounts.devices == ()
    assert {"d-1", "d-2"} <= accounts.former
    desk.register.close()


def test_a_kill_before_the_commit_and_after_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = desk.ticket()
    made = request(ticket)

    class Killed(Exception):
        pass

    def dies(*_: object) -> Granted:
        raise Killed

    proof = EnrolProof.make(made, challenge(desk, made), ticket.terms.secret, KEYS[0].device)
    with monkeypatch.context() as patch:
        patch.setattr(desk.office, "_issue", dies)
        with pytest.raises(Killed):
            desk.say(ticket.token, proof.to_bytes())
    assert desk.register.entries()[0].claim is None
    desk.restart()
    lost = run(desk, ticket)  # granted and committed, and say that nobody heard it
    desk.restart()
    assert run(desk, ticket) == lost
    (entry,) = desk.register.entries()
    assert entry.claim is not None
    assert entry.claim.certificate == lost.certificate


@pytest.mark.parametrize("kem_key", [bytes(1216), b"\xff" * 1216])
@pytest.mark.parametrize("auto", [True, False])
def test_keys_that_nothing_can_be_sealed_to(tmp_path: Path, kem_key: bytes, auto: bool) -> None:
    """Whoever has a ticket may send any bytes for a key; that is no reason to die of it."""
    desk = Desk(tmp_path, auto=auto)
    ticket = desk.ticket()
    made = request(ticket, kem_key=kem_key)
    proof = EnrolProof.make(made, challenge(desk, made), ticket.terms.secret, KEYS[0].device)
    reply = desk.say(ticket.token, proof.to_bytes())
    if not auto:
        desk.register.decide(ticket.token, Status.APPROVED, desk.now)
        reply = desk.say(ticket.token, proof.to_bytes())
    assert reply is not None
    assert refusal(reply) is Refusal.BAD_KEY
    claim = desk.register.entries()[0].claim
    assert claim is None if auto else (claim and claim.status is Status.APPROVED)
    desk.register.close()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4), 4))[::5])
def test_two_devices_race(desk: Desk, order: tuple[int, ...]) -> None:
    """Whichever way their messages mix, one is let in and the other is told."""
    ticket = desk.ticket()
    exchanges = [Exchange(ticket, request(ticket, k), k) for k in KEYS[:2]]
    said = [exchange.connected(0.0) for exchange in exchanges]
    outcomes: dict[int, str] = {}
    for turn in [who % 2 for who in order] * 3:
        for payload in said[turn]:
            reply = desk.say(ticket.token, payload)
            assert reply is not None
            try:
                said[turn] = exchanges[turn].receive(reply.payload, 1.0)
            except EnrolmentRefused as fault:
                outcomes[turn], said[turn] = fault.reason, []
        if exchanges[turn].grant:
            outcomes[turn] = "in"
    assert sorted(outcomes.values()) == ["in", Refusal.USED]


def test_a_flood_is_rationed_and_counted(desk: Desk) -> None:
    ticket, honest = desk.ticket(1), desk.ticket(2)
    spelled, other = request(ticket).to_bytes(), request(honest, KEYS[1]).to_bytes()
    answered = [reply for _ in range(2000) if (reply := desk.knock(ticket.token, spelled))]
    assert len(answered) <= 14
    assert refusal(answered[-1]) is Refusal.RATE
    assert desk.door.counters["too_often"] > 1900
    assert desk.knock(honest.token, other) is not None  # others aren't touched by it
    for number in range(1000):
        desk.knock(number.to_bytes(16, "big"), b"garbage")  # what the broker wouldn't let happen
    assert desk.door.counters["dropped"] > 500
    assert desk.knock(honest.token, other) is None
    desk.now += 3600
    assert desk.knock(honest.token, other) is not None
    run(desk, ticket)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_garbage_gets_no_answer_and_does_no_harm(desk: Desk, data: st.DataObject) -> None:
    made = request(desk.made) if hasattr(desk, "made") else None
    if made is None:
        desk.made = desk.ticket()  # type: ignore[attr-defined]
        made = request(desk.made)
    proof = EnrolProof(made, bytes(32), bytes(32), bytes(3309)).to_bytes()
    spelled = bytearray(data.draw(st.sampled_from([made.to_bytes(), proof])))
    at = data.draw(st.integers(0, len(spelled) - 1))
    spelled[at] ^= data.draw(st.integers(1, 255))
    desk.now += 100
    for payload in (bytes(spelled), data.draw(st.binary(max_size=60)), bytes(spelled[:at])):
        reply = desk.say(made.token, payload)
        assert reply is None or not reply.grant
    exchange = Exchange(desk.made, made, KEYS[0])
    for kind in Kind:
        assert exchange.receive(EnrolAnswer(kind, bytes(spelled)).to_bytes(), 1.0) == []
    assert exchange.receive(bytes(spelled), 1.0) == []

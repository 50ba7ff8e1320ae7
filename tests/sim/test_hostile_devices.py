"""Enrolled devices that lie: each lie gets its name, the round goes on, the liar's next honest
update counts.
"""

import zlib
from dataclasses import replace

import numpy as np
import pytest

from qflare import codec
from qflare.compression import parse_codec
from qflare.compression.encoding import encode
from qflare.envelope import sign
from qflare.faults import Reason
from qflare.messages import (
    BLOB_MAX,
    KIB,
    DeviceHello,
    PartyState,
    Presence,
    RoundOffer,
    Telemetry,
    UpdateHeader,
    UpdatePayload,
)
from qflare.names import DeviceId, Digest, FleetId
from qflare.topics import Down, DownTopic, StateTopic, Up, UpChunk, UpTopic, build
from qflare.transfer import AskBlob, AskConsistency, AskInclusion, TransferOffer
from tests.sim.edge import SIZE
from tests.sim.hostile import Hostile, Scheme
from tests.sim.outcome import abandoned, check_outcome, released
from tests.sim.simulation import Simulation
from tests.unit.coordinator_rig import FLEET, TALLIES

VICTIM = DeviceId.parse("dev-0")


def weighing(weight: int) -> Scheme:
    return lambda m, offer: m.try_on(offer, m.seal(offer.claims, m.payload(weight)))


def holding(encoded: bytes) -> Scheme:
    return lambda m, offer: m.try_on(
        offer, m.seal(offer.claims, UpdatePayload(5, encoded, TALLIES))
    )


def telling(*tallies: int) -> Scheme:
    """An honest update with these tallies."""
    return lambda m, offer: m.try_on(
        offer, m.seal(offer.claims, replace(m.payload(), tallies=tallies))
    )


def claiming(**changes: object) -> Scheme:
    """Sealed to claims that differ from the round's own."""
    return lambda m, offer: m.try_on(offer, m.seal(replace(offer.claims, **changes)))  # type: ignore[arg-type]


def in_the_name_of_another(m: Hostile, offer: RoundOffer) -> None:
    m.try_on(offer, m.seal(offer.claims, device=VICTIM))


def with_the_certificate_of_another(m: Hostile, offer: RoundOffer) -> None:
    _, der = m.sim.world.identity(VICTIM)
    m.try_on(offer, m.seal(offer.claims, certificate=Digest.of(der)))


def with_the_seal_of_another(m: Hostile, offer: RoundOffer) -> None:
    """Its own signed header over a payload that was sealed for somebody else."""
    _, der = m.sim.world.identity(VICTIM)
    data = m.seal(offer.claims, device=VICTIM, certificate=Digest.of(der))
    header, _, sealed = codec.decode(data, BLOB_MAX)  # type: ignore[misc]
    assert isinstance(header, bytes)
    mine = replace(
        UpdateHeader.parse(header), device=m.name, certificate=Digest.of(m.der)
    ).to_bytes()
    signature = m.key.sign(UpdateHeader.CONTEXT, mine)
    m.try_on(offer, codec.encode([mine, signature.raw, sealed]))


def truncated(m: Hostile, offer: RoundOffer) -> None:
    m.try_on(offer, m.seal(offer.claims)[:-10])


def longer(m: Hostile, offer: RoundOffer) -> None:
    m.try_on(offer, m.seal(offer.claims) + b"\0")


def flipped(m: Hostile, offer: RoundOffer) -> None:
    data = bytearray(m.seal(offer.claims))
    data[-5] ^= 1
    m.try_on(offer, bytes(data))


def misnamed(m: Hostile, offer: RoundOffer) -> None:
    """Offered under a digest that isn't its own."""
    data, name = m.seal(offer.claims), Digest.of(b"something else")
    m.outbox[name] = (offer.round, data)
    m.attacks.append(name)
    m.up(Up.OFFER, TransferOffer(name, offer.round, len(data), KIB).to_bytes())


def oversize(m: Hostile, offer: RoundOffer) -> None:
    m.attacks.append(m.offer(bytes(2 * KIB), offer.round, size=BLOB_MAX))


def for_the_next_round(m: Hostile, offer: RoundOffer) -> None:
    m.attacks.append(m.offer(m.seal(offer.claims), offer.round + 1))


Q4 = encode(np.full(SIZE, 0.01, np.float32), parse_codec("q4"), np.random.default_rng(1))[0]
HUGE = encode(np.full(SIZE, 100.0, np.float32), parse_codec("q8"), np.random.default_rng(1))[0]
BOMB = zlib.compress(bytes(64 * KIB), 9)
NAN = b"\xff\xff" + b"\x7f" * SIZE  # a scale beyond every finite value

LIES: dict[str, tuple[Scheme, Reason]] = {
    "weight 0": (weighing(0), Reason.BAD_WEIGHT),
    "weight below 0": (weighing(-5), Reason.BAD_WEIGHT),
    "weight above the cap": (weighing(101), Reason.BAD_WEIGHT),
    "weight of 2^63": (weighing(2**63), Reason.BAD_WEIGHT),
    "no tallies": (telling(), Reason.BAD_TALLIES),
    "tallies of a class more": (telling(*TALLIES[:3], *TALLIES), Reason.BAD_TALLIES),
    "more examples than the cap": (telling(99, 0, 0, 2, 0, 0, 0, 0), Reason.BAD_TALLIES),
    "more examples right than there are": (telling(1, 0, 2, 2, 0, 0, 0, 0), Reason.BAD_TALLIES),
    "examples below 0": (telling(9, 0, 0, -2, -3, -3, 0, 0), Reason.BAD_TALLIES),
    "a loss beyond every model's": (telling(1, 0, 0, 2, 0, 0, 0, 2**22), Reason.BAD_TALLIES),
    "a loss below 0": (telling(1, 0, 0, 2, 0, 0, -1, 0), Reason.BAD_TALLIES),
    "no vector": (holding(b""), Reason.WRONG_SHAPE),
    "a coordinate less": (holding(bytes(2 + SIZE - 1)), Reason.WRONG_SHAPE),
    "a coordinate more": (holding(bytes(2 + SIZE + 1)), Reason.TOO_LARGE),
    "another codec": (holding(Q4), Reason.WRONG_SHAPE),
    "a deflate bomb": (holding(BOMB), Reason.WRONG_SHAPE),
    "no finite number": (holding(NAN), Reason.BAD_VALUE),
    "a huge norm": (holding(HUGE), Reason.NORM_TOO_LARGE),
    "claims of another round": (claiming(round=7), Reason.WRONG_ROUND),
    "claims of an older epoch": (claiming(epoch=7), Reason.STALE_EPOCH),
    "claims of another model": (claiming(model=Digest.of(b"x")), Reason.WRONG_OFFER),
    "claims of another fleet": (claiming(fleet=FleetId.parse("x")), Reason.WRONG_FLEET),
    "another's name": (in_the_name_of_another, Reason.UNKNOWN_DEVICE),
    "another's certificate": (with_the_certificate_of_another, Reason.BAD_CERTIFICATE),
    "another's seal": (with_the_seal_of_another, Reason.CANNOT_OPEN),
    "truncated": (truncated, Reason.MALFORMED),
    "a byte too many": (longer, Reason.MALFORMED),
    "a bit is flipped": (flipped, Reason.WRONG_DIGEST),
    "not what was offered": (misnamed, Reason.WRONG_DIGEST),
    "too large to offer": (oversize, Reason.TOO_LARGE),
    "of a round to come": (for_the_next_round, Reason.WRONG_ROUND),
}


def finish(sim: Simulation, *liars: Hostile) -> None:
    """Two rounds come out; in the second one the liars count."""
    for liar in liars:
        liar.start()
    sim.start()
    sim.run(lambda: sim.settled() and all(liar.honest_counted() for liar in liars), 400)
    check_outcome(sim, honest=False)
    assert not abandoned(sim)
    for edge in sim.edges.values():
        assert edge.counters["inclusion_verified"] == 2
        assert not edge.counters["refused"]


@pytest.mark.parametrize("name", LIES)
def test_a_lie(name: str) -> None:
    scheme, reason = LIES[name]
    sim = Simulation(devices=2, expect_devices=3)
    liar = Hostile(sim, "liar-0", scheme)
    finish(sim, liar)
    (attack,) = liar.attacks
    # What only the enclave can see is durable here first, and its refusal comes as a second word.
    assert liar.words(attack)[-1] == reason
    assert set(liar.words(attack)[:-1]) <= {""}
    assert sim.coordinator.machine.book.refusals[reason] >= 1
    assert not any(attack in dict(sim.coordinator.store.admitted(n)).values() for n in (1, 2))
    if len(liar.words(attack)) > 1:
        assert dict(released(sim)[0].refused) == {reason: 1}


def test_all_lies_at_once() -> None:
    sim = Simulation(devices=3, expect_devices=3 + len(LIES))
    liars = [Hostile(sim, f"liar-{i}", scheme) for i, (scheme, _) in enumerate(LIES.values())]
    finish(sim, *liars)
    assert [liar.words(liar.attacks[0])[-1] for liar in liars] == [r for _, r in LIES.values()]
    first, second = released(sim)
    assert (first.admitted, second.admitted) == (3, 3 + len(LIES))


def test_replay_of_an_old_update() -> None:
    """In round 2 the bytes of round 1 again, under the old round's number and under the new one."""

    def scheme(m: Hostile, offer: RoundOffer) -> None:
        if offer.round == 1:
            m.be_honest(offer)
            return
        _, old = m.outbox[m.honest[0]]
        m.attacks.append(m.offer(old, 1))
        m.attacks.append(m.offer(old, 2))
        m.be_honest(offer)

    sim = Simulation(devices=2, expect_devices=3, rounds=3)
    liar = Hostile(sim, "liar-0", scheme, until=2)
    liar.start()
    sim.start()
    sim.run(lambda: sim.settled() and liar.honest_counted(), 400)
    check_outcome(sim, honest=False)
    # It was accepted once, and is told so again; it counts in the round that it was made for only.
    assert liar.words(liar.honest[0]) == ["", "", ""]
    counted = [dict(sim.coordinator.store.admitted(n))[liar.name] for n in (1, 2, 3)]
    assert counted == liar.honest


def test_equivocation() -> None:
    """A second update for the same round, as soon as the first one was accepted."""

    def scheme(m: Hostile, offer: RoundOffer) -> None:
        m.be_honest(offer)
        m.sim.after(0.2, lambda: m.try_on(offer, m.seal(offer.claims, m.payload(9, 0.02))))

    sim = Simulation(devices=2, expect_devices=3)
    liar = Hostile(sim, "liar-0", scheme)
    finish(sim, liar)
    assert liar.words(liar.attacks[0]) == [Reason.DUPLICATE]


def test_two_at_a_time() -> None:
    def scheme(m: Hostile, offer: RoundOffer) -> None:
        m.be_honest(offer)
        m.offer(m.seal(offer.claims, m.payload(9, 0.02)), offer.round)

    sim = Simulation(devices=2, expect_devices=3)
    finish(sim, Hostile(sim, "liar-0", scheme))
    assert sim.coordinator.machine.book.refusals[Reason.DUPLICATE] >= 1


def test_a_transfer_that_never_finishes() -> None:
    def scheme(m: Hostile, offer: RoundOffer) -> None:
        m.mute = True
        m.attacks.append(m.offer(m.seal(offer.claims), offer.round))

    sim = Simulation(devices=2, expect_devices=3)
    liar = Hostile(sim, "liar-0", scheme)
    finish(sim, liar)
    assert liar.words(liar.attacks[0]) == []
    assert released(sim)[0].admitted == 2


def test_enough_unfinished_transfers_to_fill_every_place() -> None:
    """Each offers something of the largest size, and sends nothing of it."""

    def scheme(m: Hostile, offer: RoundOffer) -> None:
        m.mute = True
        size = m.sim.settings.update_ceiling
        m.attacks.append(m.offer(m.name.encode(), offer.round, size=size))

    policy = replace(Simulation(1).settings.policy, deadline_s=300)
    sim = Simulation(devices=2, expect_devices=12, limits=_LIMITS, policy=policy)
    liars = [Hostile(sim, f"liar-{i}", scheme) for i in range(10)]
    finish(sim, *liars)
    assert released(sim)[0].admitted == 2


_LIMITS = replace(Simulation(1).settings.limits, open_max=4, window=2, credit=8, give_up_s=20.0)


def test_on_the_topics_of_another() -> None:
    """The broker lets nobody speak for another device, and the coordinator's words are its own."""

    def scheme(m: Hostile, offer: RoundOffer) -> None:
        data = m.seal(offer.claims)
        for topic in (
            UpTopic(FLEET, VICTIM, Up.OFFER),
            UpTopic(FLEET, VICTIM, Up.HELLO),
            UpChunk(FLEET, VICTIM, Digest.of(data), 0),
            StateTopic(FLEET, VICTIM),
            DownTopic(FLEET, VICTIM, Down.RECEIPT),
        ):
            m.say(topic, data[:KIB])
        m.be_honest(offer)

    sim = Simulation(devices=2, expect_devices=3)
    finish(sim, Hostile(sim, "liar-0", scheme))
    assert sim.broker.denied == {"liar-0": 5}
    assert not sim.coordinator.machine.book.refusals


def nonsense(m: Hostile) -> list[tuple[str, bytes]]:
    """Whatever doesn't belong, on every topic that a device may write to."""
    own = [UpTopic(FLEET, m.name, kind) for kind in Up]
    digest = Digest.of(b"nothing")
    report = Telemetry(FLEET, VICTIM, 1, digest, 5, 5, 0.0, (), ())
    bad = [b"", b"\0", b"\xff" * 100, bytes(300 * KIB), DeviceHello(b"x", 1).to_bytes()]
    bad += [
        AskBlob(digest, (0,)).to_bytes(),
        AskInclusion(10**6, digest).to_bytes(),
        AskConsistency(5, 2**31 - 1).to_bytes(),
        TransferOffer(digest, 2**31 - 1, BLOB_MAX, KIB).to_bytes(),
        PartyState(Presence.ONLINE, 1, "1", "").to_bytes(),
        sign(report, m.key),
    ]
    out = [(build(topic), payload) for topic in own for payload in bad]
    out += [(build(UpChunk(FLEET, m.name, digest, i)), b"x" * KIB) for i in (0, 2**20 - 1)]
    base = f"qflare/1/{FLEET}/{m.name}/up"
    out += [(f"{base}/{rest}", b"x") for rest in ("", "x", "chunk", "chunk/x/0", "hello/x")]
    out += [(f"{base}/chunk/{digest}/-1", b"x"), (f"{base}/chunk/{digest}/00", b"x")]
    return out


def test_garbage_on_every_topic_in_every_phase() -> None:
    policy = replace(Simulation(1).settings.policy, deadline_s=5)
    sim = Simulation(devices=2, expect_devices=3, policy=policy, pause_s=30.0)
    liar = Hostile(sim, "liar-0", lambda m, offer: None)
    noise = nonsense(liar)
    phases: set[str] = set()

    def babble(number: int = 0) -> None:
        book = sim.coordinator.machine.book
        phases.add(book.phase)
        if book.released == 0:
            sim.broker.publish(liar.name, *noise[number % len(noise)])
            sim.after(0.0009, lambda: babble(number + 1))

    sim.after(0.0, babble)
    finish(sim, liar)
    assert phases >= {"waiting", "opening", "collecting", "releasing"}
    refusals = sim.coordinator.machine.book.refusals
    for reason in (
        Reason.MALFORMED,
        Reason.TOO_LARGE,
        Reason.WRONG_TOPIC,
        Reason.WRONG_OFFER,
        Reason.WRONG_ROUND,
        Reason.WRONG_DIGEST,
        Reason.BAD_VALUE,
        Reason.UNKNOWN_DEVICE,
        Reason.RATE_LIMITED,
    ):
        assert refusals[reason], reason

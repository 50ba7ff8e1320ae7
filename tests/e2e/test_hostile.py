"""A device in the wrong hands, with real processes: refused in so many words, and nobody else hurt.

Mallory holds a device that the fleet's CA vouches for. While rounds run it sends garbage, floods,
messages of 100 MB, and signed and sealed updates that are wrong in one respect each. The others
have to arrive at the model of a run in which it kept still, with no process restarted.
"""

import asyncio
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import sign
from qflare.faults import Reason
from qflare.messages import KIB, DeviceHello, Presence, ReceiptStatus, RoundOffer
from qflare.names import Digest, FleetId
from qflare.simulate.report.model import Report
from qflare.topics import (
    All,
    AllChunk,
    AllTopic,
    CoordinatorMetric,
    CoordinatorState,
    Down,
    DownTopic,
    StateTopic,
    Topic,
    Up,
    UpTopic,
    build,
)
from qflare.transfer import TransferOffer

from .hostile_updates import ATTACKS
from .infested import Infested, admitted, nobody_was_hurt, run
from .mallory import Mallory, RawConnection

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.xdist_group("e2e")]

MIB = 1024 * KIB
BROKER_RSS_MAX = 256 * MIB  # while somebody pushes 100 MB at it


DISTURBED = len(ATTACKS) + 1  # the round of a transfer that goes wrong in every way
HONEST = DISTURBED + 1  # the round of Mallory's only honest update
ROUNDS = HONEST + 1  # in the last one that update is offered again


async def keep_still(m: Mallory, _: Infested) -> None:
    await m.greet()
    await m.offer_of(1)
    await m.state(Presence.STOPPED)
    await m.report(ROUNDS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("undisturbed")
    report, _ = run(folder, keep_still, devices=5, rounds=ROUNDS)
    nobody_was_hurt(report, folder)
    assert [r.admitted for r in report.released] == [4] * ROUNDS
    return report


# --- what is said while the first round is held open -------------------------------------------


def garbage(rng: random.Random, largest: int) -> list[bytes]:
    """Bytes that mean nothing, of all sizes, and CBOR that promises too much."""
    sizes = (1, 2, 63, 64, 300, 4096, CHUNK_AND_ONE, largest)
    return [
        *(rng.randbytes(size) for size in sizes),
        bytes(1000),
        b"\x81" * 10_000,  # arrays in arrays
        b"\x9b" + b"\xff" * 8,  # an array of 2^64 - 1
        b"\x5b" + b"\x7f" * 8,  # as many bytes
        b"\x8a" + b"\x01" * 9,  # one item short
        b"\x9f\x01\xff",  # of indefinite length
    ]


CHUNK_AND_ONE = 64 * KIB + 1


async def say_garbage(m: Mallory) -> None:
    """Garbage on every topic that is ours, then something on topics that aren't."""
    rng, before = random.Random(5), m.refusals()
    for topic in m.own_topics():
        for junk in garbage(rng, m.link.max_payload(topic)):
            await m.say(topic, junk)
    sent = len(m.own_topics()) * len(garbage(rng, 1))
    await m.until(
        lambda: (m.refusals() - before).total() >= sent, f"{sent} refusals, now {m.refusals()}"
    )
    grown = m.refusals() - before
    assert grown[Reason.MALFORMED] > 0
    assert grown[Reason.TOO_LARGE] > 0
    assert grown[Reason.WRONG_OFFER] > 0  # chunks of no transfer


async def say_what_is_not_ours(m: Mallory) -> None:
    """Forgeries on topics of others: the broker drops them, or keeps quiet and drops them."""
    fleet, other = m.fleet, m.other
    before = m.refusals()
    await m.link.drain(10)
    refused = m.link.counters.refused_out
    forged: list[tuple[Topic, bytes]] = [
        (AllTopic(fleet, All.OFFER), b""),
        (AllTopic(fleet, All.MANIFEST), b"\x80"),
        (AllTopic(fleet, All.MODEL), b""),
        (AllTopic(fleet, All.HELLO), b"\x80"),
        (AllChunk(fleet, Digest.of(b"x"), 0), bytes(64)),
        (CoordinatorState(fleet), b""),
        (CoordinatorMetric(fleet, "run"), b'{"done": true, "telemetry": 99}'),
        (StateTopic(fleet, other), b""),
        (UpTopic(fleet, other, Up.HELLO), DeviceHello(m.certificate, 1).to_bytes()),
        (UpTopic(fleet, other, Up.OFFER), b"\x80"),
        (UpTopic(fleet, other, Up.TELEMETRY), b"\x80"),
        (DownTopic(fleet, other, Down.RECEIPT), b"\x80"),
        (DownTopic(fleet, other, Down.GRANT), b"\x80"),
    ]
    for topic, payload in forged:
        for retain in (False, True):
            await m.say(build(topic), payload, retain)
    assert await m.link.drain(10)
    if m.link.counters.refused_out:  # mosquitto says so; MQTT 3.1.1 has no words for it
        assert m.link.counters.refused_out - refused == 2 * len(forged)
    # What got through would have been refused by the coordinator, before this answer.
    await m.refused(m.up(Up.ASK), b"\x80", Reason.MALFORMED)
    assert (m.refusals() - before).total() == 1


async def lie(m: Mallory, offer: RoundOffer) -> None:
    """Well-formed and well-signed messages that aren't true or aren't allowed."""
    ceiling_plus = TransferOffer(Digest.of(b"big"), offer.round, 100 * MIB, 256 * KIB)
    await m.refused(m.up(Up.OFFER), ceiling_plus.to_bytes(), Reason.TOO_LARGE)
    ahead = TransferOffer(Digest.of(b"next"), offer.round + 1, KIB, KIB)
    await m.refused(m.up(Up.OFFER), ahead.to_bytes(), Reason.WRONG_ROUND)
    stranger = DeviceHello(m.other_certificate, 1).to_bytes()
    await m.refused(m.up(Up.HELLO), stranger, Reason.BAD_CERTIFICATE)
    spoilt = m.certificate[:-1] + bytes([m.certificate[-1] ^ 1])
    await m.refused(m.up(Up.HELLO), DeviceHello(spoilt, 1).to_bytes(), Reason.BAD_CERTIFICATE)


async def lie_about_models(m: Mallory) -> None:
    """Telemetry in another's name, with another's key, on a model that isn't one."""
    await m.until(lambda: 1 in m.models, "the first model")
    told, topic = m.telemetry(1), m.up(Up.TELEMETRY)
    for wrong, reason in (
        (replace(told, device=m.other), Reason.UNKNOWN_DEVICE),
        (replace(told, fleet=FleetId.parse("x")), Reason.WRONG_FLEET),
        (replace(told, round=99), Reason.WRONG_ROUND),
        (replace(told, model=Digest.of(b"x")), Reason.WRONG_DIGEST),
    ):
        await m.refused(topic, sign(wrong, m.key), reason)
    forged = sign(told, SigningKey.generate(DEFAULT))
    await m.refused(topic, forged, Reason.BAD_SIGNATURE)


async def disturb_a_transfer(m: Mallory, offer: RoundOffer) -> None:
    """Chunks that weren't asked for, a second update beside the first, and other bytes at last."""
    first = TransferOffer(Digest.of(b"first"), offer.round, 6 * KIB, KIB)
    await m.say(m.up(Up.OFFER), first.to_bytes())
    second = TransferOffer(Digest.of(b"second"), offer.round, 6 * KIB, KIB)
    await m.refused(m.up(Up.OFFER), second.to_bytes(), Reason.DUPLICATE)
    await m.until(lambda: m.granted(first.transfer) == [0, 1, 2, 3], "credit for four chunks")
    for index, size, reason in (
        (0, 17, Reason.MALFORMED),
        (6, KIB, Reason.BAD_VALUE),
        (5, KIB, Reason.WRONG_OFFER),  # in it, and not granted yet
    ):
        await m.refused(m.chunk_topic(first.transfer, index), bytes(size), reason)
    for index in (0, 0, 1, 1, 2, 3):  # twice is no fault
        await m.say(m.chunk_topic(first.transfer, index), bytes(KIB))
    await m.until(lambda: set(m.granted(first.transfer)) >= {4, 5}, "credit for the rest")
    for index in (4, 5):
        await m.say(m.chunk_topic(first.transfer, index), bytes(KIB))
    await m.until(lambda: first.transfer in m.receipts, "an answer to the whole")
    assert m.receipts[first.transfer].reason == Reason.WRONG_DIGEST


async def push_100_mb(m: Mallory, broker: int) -> None:
    """One PUBLISH of 100 MB to each kind of topic: the broker hangs up each time."""
    await m.disconnect()  # some brokers let a user in once

    def push() -> None:
        for topic in (*m.own_topics(), build(AllTopic(m.fleet, All.OFFER)), "elsewhere"):
            connection = RawConnection(m)
            try:
                assert connection.is_cut_off(topic, 100 * MIB), topic
            finally:
                connection.close()

    await asyncio.to_thread(push)
    status = Path(f"/proc/{broker}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * KIB  # type: ignore[index]
    assert peak < BROKER_RSS_MAX, f"the broker held {peak // MIB} MiB"
    await m.connect()


async def flood(m: Mallory) -> None:
    """Thousands of small messages, as fast as a socket takes them, and then politely."""
    await m.disconnect()

    def pour() -> None:
        connection = RawConnection(m)
        for topic in m.own_topics():
            for _ in range(3_000):
                connection.publish(topic, b"\x80")
        connection.close()

    await asyncio.to_thread(pour)
    await m.connect()
    before = m.refusals()
    for _ in range(1_000):
        await m.say(m.up(Up.HELLO), m.hello)
        await m.say(m.up(Up.ASK), b"\x80")
    await m.until(
        lambda: (m.refusals() - before)[Reason.RATE_LIMITED] > 500, "the flood to be limited"
    )


# --- the runs ----------------------------------------------------------------------------------


async def attack(m: Mallory, simulation: Infested) -> None:
    await m.greet()
    offer = await m.offer_of(1)
    broker = simulation.pid("broker")
    assert broker
    await lie(m, offer)
    await say_garbage(m)
    await say_what_is_not_ours(m)
    await push_100_mb(m, broker)
    await flood(m)
    assert m.offers.keys() == {1}, "the first round was to be held open until here"
    assert 1 not in m.models
    refused: list[bytes] = []
    for round_, wrong in enumerate(ATTACKS, 1):
        offer = await m.offer_of(round_)
        if round_ == 2:
            await lie_about_models(m)
            stale = TransferOffer(Digest.of(b"stale"), 1, KIB, KIB)
            await m.refused(m.up(Up.OFFER), stale.to_bytes(), Reason.ROUND_CLOSED)
        update = wrong.make(m, offer)
        before = m.refusals()
        if wrong.named:
            answer = await m.send(update, round_, wrong.named)
        else:
            answer = await m.settled(update, round_)
        assert answer == (ReceiptStatus.REFUSED, wrong.reason), wrong.name
        await m.until_refused(wrong.reason, before)
        refused.append(update)
    await disturb_a_transfer(m, await m.offer_of(DISTURBED))
    offer = await m.offer_of(HONEST)
    # What was refused stays refused, whatever round it is offered for.
    again = await m.send(refused[-2], HONEST)
    assert again == (ReceiptStatus.REFUSED, ATTACKS[-2].reason)
    honest = m.seal(offer)
    assert await m.settled(honest, HONEST) == (ReceiptStatus.ACCEPTED, "")
    await m.offer_of(ROUNDS)
    # It was counted once: offered again it gets its old receipt, in the next round's name too.
    assert await m.send(honest, ROUNDS) == (ReceiptStatus.ACCEPTED, "")
    assert m.receipts[Digest.of(honest)].round == HONEST
    await m.state(Presence.STOPPED)
    await m.report(ROUNDS)
    assert m.foreign == []


@pytest.mark.parametrize("broker", ["mosquitto", "nats"])
def test_a_hostile_device_changes_nothing_until_it_is_honest(
    broker: str, undisturbed: Report, tmp_path: Path
) -> None:
    report, simulation = run(tmp_path, attack, devices=5, rounds=ROUNDS, broker=broker)
    nobody_was_hurt(report, tmp_path)
    assert report.broker.removesuffix("-server").startswith(broker)
    models = [r.model for r in report.released]
    expected = [r.model for r in undisturbed.released]
    assert models[: HONEST - 1] == expected[: HONEST - 1]
    assert models[HONEST - 1] != expected[HONEST - 1]
    counted, mallory = admitted(tmp_path), str(simulation.mallory.name)
    honest = counted[1]
    assert len(honest) == 4
    assert mallory not in honest
    assert counted == {r: honest | ({mallory} if r == HONEST else set()) for r in counted}
    assert [r.admitted for r in report.released] == [4] * (HONEST - 1) + [5, 4]


async def barge_in(m: Mallory, simulation: Infested) -> None:
    """Answer every round, invited or not."""
    await m.greet()
    for round_ in range(1, 9):
        offer = await m.offer_of(round_)
        answer = await m.settled(m.seal(offer), round_)
        if m.name in offer.cohort:
            assert answer == (ReceiptStatus.ACCEPTED, "")
        else:
            assert answer in (
                (ReceiptStatus.REFUSED, Reason.NOT_INVITED),
                (ReceiptStatus.REFUSED, Reason.ROUND_CLOSED),  # the invited ones were quicker
            )
    await m.report(8)


def test_only_invited_devices_are_counted(tmp_path: Path) -> None:
    report, simulation = run(tmp_path, barge_in, devices=4, cohort=2, rounds=8)
    nobody_was_hurt(report, tmp_path)
    offers, counted = simulation.mallory.offers, admitted(tmp_path)
    assert counted == {round_: set(offer.cohort) for round_, offer in offers.items()}
    assert [(r.invited, r.admitted) for r in report.released] == [(2, 2)] * 8
    assert len({offer.cohort for offer in offers.values()}) > 1
    invited = [simulation.mallory.name in offer.cohort for offer in offers.values()]
    assert any(invited)
    assert not all(invited)
    assert simulation.mallory.refusals()[Reason.NOT_INVITED] > 0

"""The round machine, transition by transition, and what it says to whom."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.book import Phase
from coordinator.events import (
    AdmitUpdate,
    EnclaveDown,
    EnclaveUp,
    LinkDown,
    LinkUp,
    OpenEnclaveRound,
    Received,
    ReleaseRound,
    Tick,
)
from coordinator.machine import TRANSITIONS, Cause
from coordinator.validation import figures
from qflare.envelope import open_signed, sign
from qflare.faults import LocalFault, Reason
from qflare.messages import (
    CHUNK_MAX,
    KIB,
    DeviceHello,
    ModelReady,
    ReceiptStatus,
    RoundOffer,
    RoundReceipt,
    Telemetry,
    update_leaf,
)
from qflare.names import DeviceId, Digest
from qflare.proofs import verify_consistency, verify_inclusion
from qflare.topics import Topic, Up, UpChunk, UpTopic, build
from qflare.transfer import AskBlob, AskConsistency, AskInclusion, ConsistencyAnswer, TransferOffer
from tests.unit import coordinator_rig
from tests.unit.coordinator_rig import FLEET, GRAPH, TALLIES, WEIGHTS, Rig, World

_WORLD = World()
DEV = DeviceId.parse("dev-0")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(_WORLD, tmp_path)


def phase_is(rig: Rig, phase: Phase) -> Callable[[], bool]:
    return lambda: rig.machine.book.phase is phase


def collecting(rig: Rig, silent: tuple[str, ...] = ()) -> None:
    """Go to COLLECTING with the named devices registered, but not answering."""
    for name in silent:
        rig.devices[DeviceId(name)].answered |= {1, 2, 3, 4, 5}
    rig.run(lambda: rig.machine.book.phase is Phase.COLLECTING or rig.done(), ticks=5)


def say(rig: Rig, kind: Up, payload: bytes, device: DeviceId = DEV) -> None:
    rig.events.append(Received(build(UpTopic(FLEET, device, kind)), payload))
    while rig.events:
        rig.step()


def last_receipt(rig: Rig, device: DeviceId, update: Digest) -> tuple[ReceiptStatus, str]:
    receipt = rig.devices[device].receipts[update][-1]
    return receipt.status, receipt.reason


def test_every_phase_can_be_reached_and_only_done_is_an_end() -> None:
    assert set(TRANSITIONS.values()) | {Phase.WAITING} == set(Phase)
    assert {phase for phase, _ in TRANSITIONS} == set(Phase) - {Phase.DONE}
    assert {cause for _, cause in TRANSITIONS} == set(Cause)


def test_a_transition_that_is_not_in_the_table_is_a_bug(rig: Rig) -> None:
    with pytest.raises(LocalFault, match="report this bug"):
        rig.machine._move(Cause.RELEASED)


def test_waits_for_devices_and_for_the_enclave(tmp_path: Path) -> None:
    rig = Rig(_WORLD, tmp_path, devices=1)
    rig.run(lambda: rig.now > 1_800_000_020)
    assert rig.machine.book.phase is Phase.WAITING
    assert not any(isinstance(r, OpenEnclaveRound) for r in rig.asked)


def test_waits_for_the_expected_devices_but_not_for_ever(tmp_path: Path) -> None:
    rig = Rig(_WORLD, tmp_path, devices=3, expect_devices=4, wait_s=10.0)
    rig.run(lambda: bool(rig.enclave.history))
    assert rig.now >= 1_800_000_010


def test_releases_as_soon_as_everybody_is_done(rig: Rig) -> None:
    rig.run(rig.done)
    assert rig.now < 1_800_000_020
    assert [len(counted) for counted in rig.enclave.history] == [3, 3]


def test_a_device_that_is_lost_is_waited_for_a_little(rig: Rig) -> None:
    collecting(rig, silent=("dev-2",))
    began = rig.now
    rig.devices[DeviceId("dev-2")].lose()
    rig.run(lambda: bool(rig.enclave.history))
    assert 9 <= rig.now - began <= 20
    assert len(rig.enclave.history[0]) == 2


def test_the_deadline_ends_the_wait_for_a_silent_device(rig: Rig) -> None:
    collecting(rig, silent=("dev-2",))
    rig.run(lambda: bool(rig.enclave.history))
    assert rig.now >= 1_800_000_000 + 60
    assert len(rig.enclave.history[0]) == 2


def test_below_the_minimum_nothing_is_released_and_the_number_is_spent(rig: Rig) -> None:
    collecting(rig, silent=("dev-1", "dev-2"))
    rig.run(lambda: rig.machine.book.abandoned == 1)
    assert not rig.enclave.history
    assert not any(isinstance(r, ReleaseRound) for r in rig.asked)
    for device in rig.devices.values():
        device.answered.clear()
    rig.run(lambda: bool(rig.enclave.history))
    assert rig.enclave.highest == 2
    assert rig.store is not None
    assert rig.store.load().abandoned_count == 1


def test_an_enclave_that_comes_back_is_told_everything_again(rig: Rig) -> None:
    collecting(rig, silent=("dev-2",))
    rig.run(lambda: len(rig.enclave.admitted) == 2)
    rig.enclave.admitted.clear()
    before = len(rig.asked)
    rig.events += [EnclaveDown(), EnclaveUp()]
    rig.run(lambda: len(rig.enclave.admitted) == 2)
    again = [r for r in rig.asked[before:] if isinstance(r, AdmitUpdate)]
    opened = {r for r in rig.asked if isinstance(r, OpenEnclaveRound)}
    assert len(again) == 2
    assert len(opened) == 1


def test_an_enclave_that_lost_its_keys_ends_the_round(rig: Rig) -> None:
    collecting(rig, silent=("dev-2",))
    rig.enclave.opened, rig.enclave.highest = None, 0
    rig.events += [EnclaveDown(), EnclaveUp()]
    rig.run(lambda: rig.machine.book.abandoned == 1)
    rig.run(rig.done)
    assert rig.machine.book.released == 2


def test_an_enclave_ahead_of_the_database_is_not_followed(rig: Rig) -> None:
    rig.run(lambda: len(rig.enclave.history) == 1)
    assert rig.enclave.released is not None
    rig.enclave.released = (7, rig.enclave.released[1])
    rig.events += [EnclaveDown(), EnclaveUp()]
    for _ in range(5):
        rig.events.append(Tick())
        rig.now += 1
        while rig.events:
            rig.step()
    assert rig.machine.book.refusals[Reason.ROLLBACK] >= 1
    assert not rig.machine.exchange.ready


def test_a_refusal_by_the_enclave_is_told_and_written_down(rig: Rig) -> None:
    rig.enclave.refuse[DEV] = Reason.NORM_TOO_LARGE
    rig.run(lambda: bool(rig.enclave.history))
    _, update = rig.devices[DEV].sent[0]
    said = [r.status for r in rig.devices[DEV].receipts[update]]
    assert said[0] is ReceiptStatus.ACCEPTED
    assert said[-1] is ReceiptStatus.REFUSED
    assert last_receipt(rig, DEV, update)[1] == Reason.NORM_TOO_LARGE
    assert len(rig.enclave.history[0]) == 2
    assert rig.store is not None
    row = next(u for u in rig.store.load().updates if u.digest == update)
    assert (row.status, row.reason, row.settled) == ("refused", Reason.NORM_TOO_LARGE, True)


def test_only_invited_devices_are_taken(tmp_path: Path) -> None:
    policy = replace(_WORLD.policy, max_cohort=2)
    rig = Rig(_WORLD, tmp_path, devices=4, cohort=2, policy=policy, expect_devices=4)
    rig.run(lambda: bool(rig.enclave.history))
    offers = [
        open_signed(RoundOffer, payload, _WORLD.coordinator.verify_key)
        for topic, payload in rig.published
        if build(topic).endswith("all/offer") and payload
    ]
    assert len(offers[0].cohort) == 2
    uninvited = next(d for d in rig.devices if d not in offers[0].cohort)
    assert uninvited not in rig.enclave.history[0]
    collecting(rig)
    current = rig.machine.book.round
    if current is not None and current.offer is not None:
        stranger = next(d for d in rig.devices if d not in current.offer.cohort)
        offer = TransferOffer(Digest.of(b"x"), current.number, 4000, KIB)
        say(rig, Up.OFFER, offer.to_bytes(), stranger)
        said = last_receipt(rig, stranger, offer.transfer)
        assert said in (
            (ReceiptStatus.REFUSED, Reason.NOT_INVITED),
            (ReceiptStatus.REFUSED, Reason.ROUND_CLOSED),
        )


@pytest.mark.parametrize(
    ("round_", "size", "reason"),
    [
        (9, 4000, Reason.WRONG_ROUND),
        (1, 10_000_000, Reason.TOO_LARGE),
    ],
)
def test_an_offer_that_can_not_be_taken_is_refused_for_good(
    rig: Rig, round_: int, size: int, reason: Reason
) -> None:
    collecting(rig, silent=("dev-0",))
    offer = TransferOffer(Digest.of(b"x"), round_, size, KIB)
    say(rig, Up.OFFER, offer.to_bytes())
    assert last_receipt(rig, DEV, offer.transfer) == (ReceiptStatus.REFUSED, reason)


def test_a_closed_round_is_refused_for_good(rig: Rig) -> None:
    rig.run(rig.done)
    offer = TransferOffer(Digest.of(b"late"), 1, 4000, KIB)
    say(rig, Up.OFFER, offer.to_bytes())
    assert last_receipt(rig, DEV, offer.transfer) == (ReceiptStatus.REFUSED, Reason.ROUND_CLOSED)


def test_an_update_that_is_known_gets_its_receipt_again(rig: Rig) -> None:
    rig.run(rig.done)
    rig.start()
    while rig.events:
        rig.step()
    round_, update = rig.devices[DEV].sent[0]
    said = len(rig.devices[DEV].receipts[update])
    say(rig, Up.OFFER, TransferOffer(update, round_, 4000, KIB).to_bytes())
    assert len(rig.devices[DEV].receipts[update]) == said + 1
    assert last_receipt(rig, DEV, update)[0] is ReceiptStatus.ACCEPTED


def test_a_second_update_of_a_device_is_a_duplicate(rig: Rig) -> None:
    collecting(rig, silent=("dev-2",))
    rig.run(lambda: len(rig.enclave.admitted) == 2)
    offer = TransferOffer(Digest.of(b"second"), 1, 4000, KIB)
    say(rig, Up.OFFER, offer.to_bytes())
    assert last_receipt(rig, DEV, offer.transfer) == (ReceiptStatus.REFUSED, Reason.DUPLICATE)


def test_an_update_of_another_device_is_refused(rig: Rig) -> None:
    collecting(rig, silent=("dev-0", "dev-2"))
    thief, victim = rig.devices[DEV], rig.devices[DeviceId("dev-1")]
    current = rig.machine.book.round
    assert current is not None
    assert current.offer is not None
    data = victim.update(current.offer.claims)
    thief.outbox[Digest.of(data)] = (1, data)
    thief.offer_again()
    rig.run(lambda: not thief.outbox)
    said = last_receipt(rig, DEV, Digest.of(data))
    assert said == (ReceiptStatus.REFUSED, Reason.UNKNOWN_DEVICE)


def test_garbage_on_every_topic_changes_nothing(rig: Rig) -> None:
    topics: list[Topic] = [UpTopic(FLEET, DEV, kind) for kind in Up]
    topics.append(UpChunk(FLEET, DEV, Digest.of(b""), 0))
    garbage = [b"", b"\x00", b"\xff" * 100, bytes(CHUNK_MAX)]
    texts = [build(t) for t in topics] + ["", "$SYS/x", "qflare/1/demo/all/offer", "x" * 1000]
    for text in [*texts, build(topics[0]).replace("demo", "other"), "qflare/1/demo/dev-0/state"]:
        rig.events.extend(Received(text, payload) for payload in garbage)
    while rig.events:
        rig.step()
    rig.run(rig.done)
    assert [len(counted) for counted in rig.enclave.history] == [3, 3]
    assert sum(rig.machine.book.refusals.values()) > 20


def test_a_device_that_floods_is_limited_and_heard_later(rig: Rig) -> None:
    _, der = _WORLD.identity("dev-0")
    for _ in range(50):
        say(rig, Up.HELLO, DeviceHello(der, 7).to_bytes())
    assert rig.machine.book.refusals[Reason.RATE_LIMITED] > 30
    rig.now += 60
    rig.run(rig.done)


def test_another_fleets_certificate_is_refused(rig: Rig) -> None:
    _, der = World().identity("dev-0")
    say(rig, Up.HELLO, DeviceHello(der, 7).to_bytes())
    assert rig.machine.book.refusals[Reason.BAD_CERTIFICATE] == 1


def test_the_link_coming_back_says_what_is_retained(rig: Rig) -> None:
    rig.run(rig.done)
    rig.retained.clear()
    rig.events += [LinkDown(), LinkUp()]
    while rig.events:
        rig.step()
    names = {topic.split("/", 3)[3] for topic in rig.retained}
    assert {"all/manifest", "all/model", "all/offer", "coordinator/metrics/run"} <= names
    assert rig.retained[f"qflare/1/{FLEET}/all/offer"] == b""


def test_a_broken_link_does_not_end_a_round_early(rig: Rig) -> None:
    collecting(rig, silent=("dev-2",))
    rig.run(lambda: len(rig.enclave.admitted) == 2)
    rig.events += [LinkDown(), LinkUp()]
    rig.run(lambda: rig.now > 1_800_000_010)
    assert not rig.enclave.history


def test_models_prove_themselves(rig: Rig) -> None:
    rig.run(rig.done)
    key = _WORLD.coordinator.verify_key
    models = [
        open_signed(ModelReady, payload, key)
        for topic, payload in rig.published
        if build(topic).endswith("all/model")
    ]
    first, second = models[0], models[-1]
    for ready in (first, second):
        verify_inclusion(
            ready.receipt,
            ready.checkpoint.size - 1,
            ready.checkpoint.size,
            ready.inclusion,
            ready.checkpoint.root,
        )
    verify_consistency(
        first.checkpoint.size,
        first.checkpoint.root,
        second.checkpoint.size,
        second.checkpoint.root,
        second.consistency,
    )
    say(rig, Up.ASK, AskConsistency(1, 2).to_bytes())
    answer = ConsistencyAnswer.parse(rig.published[-1][1])
    assert answer.proof == second.consistency


def test_a_device_can_prove_that_its_update_was_counted(rig: Rig) -> None:
    rig.run(rig.done)
    last = rig.machine.book.last
    assert last is not None
    key = _WORLD.enclave.verify_key
    receipt = open_signed(RoundReceipt, last.predecessor.receipt, key)
    update = rig.enclave.history[1][DEV]
    say(rig, Up.ASK, AskInclusion(2, update).to_bytes())
    say(rig, Up.ASK, AskInclusion(1, update).to_bytes())  # it counts in the other round
    answer, nothing = rig.answers
    assert nothing is None
    assert answer is not None
    leaf = update_leaf(DEV, update)
    verify_inclusion(leaf, answer.index, answer.size, answer.proof, receipt.updates)


def test_blobs_are_served_by_name_only(rig: Rig) -> None:
    rig.run(rig.done)
    say(rig, Up.ASK, AskBlob(Digest.of(GRAPH), (0, 1, 5)).to_bytes())
    say(rig, Up.ASK, AskBlob(Digest.of(WEIGHTS), (0,)).to_bytes())
    assert [(s.blob, s.indices) for s in rig.sent_blobs] == [
        (Digest.of(GRAPH), (0, 1)),  # the second is its end, empty
        (Digest.of(WEIGHTS), (0,)),
    ]
    state = rig.machine.book.last
    assert state is not None
    say(rig, Up.ASK, AskBlob(state.state, (0,)).to_bytes())
    assert len(rig.sent_blobs) == 2
    assert rig.machine.book.refusals[Reason.WRONG_DIGEST] == 1
    say(rig, Up.ASK, AskInclusion(99, Digest.of(b"")).to_bytes())
    assert rig.machine.book.refusals[Reason.BAD_VALUE] == 1


def test_telemetry_is_verified_and_pooled(rig: Rig) -> None:
    rig.run(rig.done)
    rig.run(lambda: len(rig.machine.book.reports) == 3)
    run = rig.retained[f"qflare/1/{FLEET}/coordinator/metrics/run"]
    assert b'"done":true' in run
    assert b'"accuracy":0.8' in run
    last = rig.machine.book.last
    assert last is not None
    forged = Telemetry(FLEET, DEV, 2, last.model, 1000, 0, 0.0, (), ())
    other, _ = _WORLD.identity("dev-1")
    say(rig, Up.TELEMETRY, sign(forged, other))
    assert rig.machine.book.refusals[Reason.BAD_SIGNATURE] == 1
    rig.start()
    assert len(rig.machine.book.reports) == 3


def test_a_receipt_that_does_not_verify_was_not_said(rig: Rig) -> None:
    collecting(rig)
    honest, rig.enclave.world = rig.enclave.world.enclave, replace(_WORLD, enclave=World().enclave)
    rig.enclave.world.identities = _WORLD.identities
    for _ in range(6):
        while rig.events:
            rig.step()
        rig.now += 1
        rig.events.append(Tick())
    assert rig.machine.book.phase is Phase.RELEASING
    assert rig.machine.book.refusals[Reason.BAD_SIGNATURE] >= 1
    assert honest is _WORLD.enclave
    assert rig.store is not None
    assert rig.store.load().released_count == 0


def test_validation_is_told_from_the_receipt_and_again_after_a_restart(rig: Rig) -> None:
    topic = f"qflare/1/{FLEET}/coordinator/metrics/validation"
    collecting(rig)
    assert json.loads(rig.retained[topic]) == {}
    rig.run(rig.done)
    told = json.loads(rig.retained[topic])
    assert told == {"round": 2, **(figures(tuple(3 * n for n in TALLIES)) or {})}
    assert (told["examples"], told["accuracy_before"], told["accuracy_after"]) == (24, 0.375, 0.625)
    rig.retained.clear()
    rig.start()
    rig.run(lambda: topic in rig.retained)
    assert json.loads(rig.retained[topic]) == told


def test_a_receipt_for_other_classes_was_not_said(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr(coordinator_rig, "TALLIES", (6, 3, 4, 9000, 7000))
    collecting(rig)
    rig.run(lambda: rig.machine.book.refusals[Reason.BAD_TALLIES] > 0)
    assert rig.machine.book.phase is Phase.RELEASING
    assert rig.store is not None
    assert rig.store.load().released_count == 0

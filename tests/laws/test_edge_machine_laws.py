"""Whatever arrives, whenever: the machine doesn't raise, doesn't wedge, and does the next round."""

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime import events as ev
from edge_runtime.download import CHUNK_SIZES, Downloads, Part
from edge_runtime.memory import Memory, RoundStats
from edge_runtime.phases import Phase
from edge_runtime.traffic import Bucket
from qflare import topics
from qflare.envelope import sign
from qflare.faults import PeerFault
from qflare.messages import Message
from qflare.names import DeviceId, Digest
from qflare.topics import All, AllChunk, AllTopic, Down, DownChunk, DownTopic, Up
from qflare.transfer import AskBlob
from tests.edge_lab import DEVICE, FLEET, model
from tests.edge_pilot import Pilot, Shelf
from tests.strategies import MESSAGES, record

OTHER = DeviceId.parse("dev-2")
PHASES = tuple(Phase)


def reach(phase: Phase) -> Pilot:
    """A device in this phase of round 1."""
    pilot = Pilot()
    pilot.connect()
    if phase is Phase.WAITING:
        return pilot
    if phase is Phase.APPRAISING:
        pilot.lab.release(1, model(1))
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(2))
        return pilot
    pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
    if phase is Phase.FETCHING:
        return pilot
    pilot.serve()
    if phase is Phase.SENDING:
        pilot.feed(pilot.train())
    return pilot


def finish(pilot: Pilot) -> None:
    """Whatever was open: the honest rest, then one whole honest round."""
    if pilot.machine.phase is Phase.APPRAISING:
        pilot.to_all(All.OFFER, b"")
    pilot.tick(20)
    pilot.done.clear()
    pilot.feed(ev.LinkUp(1_000_000))
    last = pilot.lab.receipts[-1].round if pilot.lab.receipts else 0
    if last:  # the device never saw it: let it have the next one from there
        pilot.blobs[Digest.of(model(last))] = model(last)
        ready = pilot.lab.release(last + 1, model(last + 1))
        pilot.blobs[Digest.of(model(last + 1))] = model(last + 1)
        pilot.to_all(All.MODEL, ready, retained=True)
        pilot.serve()
        pilot.evaluate()
    pilot.play_round(last + 5)
    assert pilot.machine.counters["inclusion_verified"] == 1
    assert pilot.machine.memory.active == Digest.of(model(last + 5))
    assert not pilot.machine.counters["odd_transitions"]
    assert not pilot.machine.counters["local_faults"]


def _topics() -> list[str]:
    blobs = [Digest.of(b"graph"), Digest.of(b"x")]
    made: list[Any] = [AllTopic(FLEET, kind) for kind in All]
    made += [DownTopic(FLEET, device, kind) for kind in Down for device in (DEVICE, OTHER)]
    made += [DownChunk(FLEET, DEVICE, blob, i) for blob in blobs for i in (0, 1, 2**20 - 1)]
    made += [AllChunk(FLEET, blob, 0) for blob in blobs]
    made += [topics.CoordinatorState(FLEET), topics.UpTopic(FLEET, DEVICE, Up.HELLO)]
    return [topics.build(topic) for topic in made]


TOPICS = _topics()
unsigned = st.sampled_from(MESSAGES).flatmap(record).map(Message.to_bytes)
garbage = st.one_of(st.binary(max_size=300), unsigned)


@st.composite
def noise(draw: st.DrawFn) -> ev.Received:
    topic = draw(st.one_of(st.sampled_from(TOPICS), st.text(max_size=40)))
    payload = draw(garbage)
    if topic.endswith("/all/offer") and not payload:
        payload = b"x"  # empty is an honest word here: the round is withdrawn
    return ev.Received(topic, payload, draw(st.booleans()))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(phase=st.sampled_from(PHASES), messages=st.lists(noise(), min_size=1, max_size=12))
def test_garbage_in_every_phase(phase: Phase, messages: list[ev.Received]) -> None:
    pilot = reach(phase)
    assert pilot.machine.phase is phase
    for message in messages:
        pilot.feed(message)
    assert not pilot.of(ev.StopTraining)
    assert pilot.machine.phase is phase
    finish(pilot)


@pytest.mark.parametrize("phase", PHASES)
def test_a_megabyte_on_every_topic(phase: Phase) -> None:
    pilot = reach(phase)
    for topic in TOPICS:
        pilot.feed(ev.Received(topic, bytes(1_000_000)))
    assert pilot.machine.phase is phase
    finish(pilot)


def _signed(pilot: Pilot) -> st.SearchStrategy[ev.Received]:
    """Well-formed, rightly signed messages whose content is arbitrary: a coordinator gone mad."""
    signable = [kind for kind in MESSAGES if hasattr(kind, "CONTEXT")]
    payloads = (
        st.sampled_from(signable)
        .flatmap(record)
        .map(lambda message: sign(message, pilot.lab.coordinator))
    )
    return st.builds(ev.Received, st.sampled_from(TOPICS), payloads, st.booleans())


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(phase=st.sampled_from(PHASES), data=st.data())
def test_signed_nonsense_in_every_phase(phase: Phase, data: st.DataObject) -> None:
    pilot = reach(phase)
    for message in data.draw(st.lists(_signed(pilot), max_size=6)):
        pilot.feed(message)
    finish(pilot)


def _history(pilot: Pilot) -> list[ev.Event]:
    """Everything that a device hears in two honest rounds."""
    heard: list[ev.Event] = []
    inner = pilot.machine.handle

    def listen(event: ev.Event, now: float) -> list[ev.Effect]:
        heard.append(event)
        return inner(event, now)

    pilot.machine.handle = listen  # type: ignore[method-assign]
    pilot.connect()
    pilot.play_round(1)
    pilot.play_round(2)
    return heard


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_lost_doubled_and_reordered_events(data: st.DataObject) -> None:
    """Any sub-multiset of an honest history, in any order, leaves a device that works."""
    source = Pilot()
    history = _history(source)
    chosen = data.draw(st.lists(st.sampled_from(history), max_size=40))
    pilot = Pilot(source.lab)
    pilot.manifest = source.manifest
    for event in chosen:
        pilot.feed(event)
        if data.draw(st.integers(0, 9)) == 0:
            pilot.restart()
    commits = [c.entry.round for c in pilot.of(ev.Commit)]
    assert len(commits) == len(set(commits))
    pilot.connect()
    pilot.lab = source.lab.fork()
    pilot.blobs |= source.blobs
    for round_ in (3, 4):
        weights = model(round_)
        pilot.blobs[Digest.of(weights)] = weights
        pilot.to_all(All.MODEL, pilot.lab.release(round_, weights), retained=True)
        pilot.serve()
    pilot.feed(ev.Evaluated(Digest.of(model(4)), 1, 1, 0.0, 0.0, 1))
    pilot.done.clear()
    pilot.play_round(9)
    assert pilot.machine.memory.active == Digest.of(model(9))


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 12 * CHUNK_SIZES[0]),
    known=st.booleans(),
    chunk=st.sampled_from(CHUNK_SIZES),
    data=st.data(),
)
@patch("edge_runtime.download.PIECE", 2 * CHUNK_SIZES[0])
def test_downloads_survive_wrong_chunks_and_restarts(
    size: int, known: bool, chunk: int, data: st.DataObject
) -> None:
    """However many wrong chunks come in between, and whatever a restart finds on the disk, asking
    and answering ends with the blob."""
    blob = bytes(i * 7 % 251 for i in range(size))
    name = Digest.of(blob)
    ceiling = size if known else 20 * CHUNK_SIZES[0]
    shelf, now, found = Shelf(), 0.0, None

    def start(parts: dict[Digest, Part]) -> Downloads:
        made = Downloads(parts)
        made.want(name, ceiling, now)
        return made

    def take(index: int, payload: bytes) -> bytes | None:
        try:
            return shelf.put(downloads.take(name, index, payload, now))
        except PeerFault:
            return None

    downloads = start({})
    for _ in range(data.draw(st.integers(0, 6))):
        wrong = data.draw(st.sampled_from([1, 100, *CHUNK_SIZES]))
        found = take(data.draw(st.integers(0, 3)), bytes(wrong)) or found
    restarts = data.draw(st.lists(st.sampled_from(["whole", "torn", "rotten"]), max_size=3))
    while found is None:
        now += 1.0
        assert now < 300, "the download is stuck"
        for ask in downloads.asks(now, Bucket(0)):
            assert isinstance(ask, AskBlob)
            for i in ask.indices:
                found = take(i, blob[i * chunk : (i + 1) * chunk]) or found
        if found is None and len(shelf.data) >= chunk and restarts:
            how = restarts.pop()
            if how == "torn":
                del shelf.data[-data.draw(st.integers(1, len(shelf.data))) :]
            elif how == "rotten":
                shelf.data[data.draw(st.integers(0, len(shelf.data) - 1))] ^= 1
            downloads = start({name: shelf.part(chunk)} if len(shelf.data) >= chunk else {})
    assert Digest.of(found) == name
    assert name not in downloads


@given(st.one_of(st.binary(max_size=200), st.just(Memory().to_bytes())))
def test_stored_records_are_strict(data: bytes) -> None:
    for kind in (Memory, RoundStats):
        try:
            assert kind.parse(data).to_bytes() == data
        except PeerFault:
            continue

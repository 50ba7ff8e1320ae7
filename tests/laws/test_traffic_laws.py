"""Limits of the network: kept over every stretch of time, and transfers end all the same."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import events as ev
from edge_runtime.download import CHUNK_SIZES, Downloads
from edge_runtime.memory import OutboxEntry, RoundStats
from edge_runtime.phases import Phase
from edge_runtime.sources.arrivals import Mark
from edge_runtime.traffic import LATELY_S, LEAST, Bucket, Meter
from edge_runtime.upload import Uploads
from qflare import topics
from qflare.messages import ReceiptStatus
from qflare.names import Digest
from qflare.topics import All, Down, Up
from qflare.transfer import AskBlob, Grant, TransferOffer
from tests.edge_lab import Lab
from tests.edge_pilot import Pilot, Shelf

times = st.lists(st.floats(0, 5), min_size=1, max_size=60)
sizes = st.integers(1, 300_000)


@given(st.integers(100, 10**6), times, st.lists(sizes, min_size=60, max_size=60))
def test_a_bucket_keeps_its_rate(rate: int, waits: list[float], pieces: list[int]) -> None:
    """In any stretch no more than rate x (its length + a second), and one piece, goes through."""
    bucket, now, went = Bucket(rate), 1000.0, []
    for wait, size in zip(waits, pieces, strict=False):
        now += wait
        if bucket.take(size, now):
            went.append((now, size))
    for i, (start, _) in enumerate(went):
        total = 0
        for at, size in went[i:]:
            assert total <= rate * (at - start + 1) * (1 + 1e-9)
            total += size


def test_no_limit_is_none() -> None:
    bucket = Bucket(0)
    assert all(bucket.take(10**9, 5.0) for _ in range(100))


@given(st.integers(2, 12), st.sampled_from([0, 8_000, 64_000]), st.integers(1, 5))
def test_an_upload_under_a_limit_ends_and_sends_nothing_twice(
    count: int, rate: int, regrants: int
) -> None:
    data = bytes(i % 251 for i in range(count * 1024))
    entry = OutboxEntry(1, Digest.of(data), 1024, data)
    uploads, limit, got = Uploads(), Bucket(rate), {}
    uploads.put(entry, 0.0)
    now = 0.0
    assert isinstance(uploads.offers(now)[0], TransferOffer)
    for _ in range(regrants):  # impatience of the other side changes nothing
        uploads.grant(Grant(entry.update, tuple(range(count))), now)
    while len(got) < count:
        now += 0.25
        assert now < 60, "the upload is stuck"
        for update, index, piece in uploads.due(limit, now):
            assert update == entry.update
            assert index not in got
            got[index] = piece
    assert b"".join(got[i] for i in sorted(got)) == data


@given(st.sampled_from(CHUNK_SIZES), st.floats(1.0, 20.0), st.integers(1, 9))
def test_a_slow_link_isnt_asked_for_more_than_it_can_carry(
    chunk: int, seconds: float, count: int
) -> None:
    """A link that takes `seconds` for a chunk, one after the other: little is asked for twice."""
    blob = bytes(count * chunk)
    name, downloads, limit = Digest.of(blob), Downloads(), Bucket(0)
    downloads.want(name, len(blob), 0.0)
    now, line, sent, whole, shelf = 0.0, [], 0, None, Shelf()
    while whole is None:
        now += 1.0
        assert now < 60 + 8 * seconds * count, "the download is stuck"
        for ask in downloads.asks(now, limit):
            assert isinstance(ask, AskBlob)
            for i in ask.indices:
                start = max([now, *(end for end, _ in line)])
                line.append((start + seconds, i))
                sent += 1
        for end, i in [item for item in line if item[0] <= now]:
            line.remove((end, i))
            piece = blob[i * chunk : (i + 1) * chunk]
            whole = shelf.put(downloads.take(name, i, piece, now)) or whole
    assert sent <= 2 * count + 8


def chunks(pilot: Pilot) -> list[int]:
    found = [topics.parse(topic) for topic, _ in pilot.published()]
    return [topic.index for topic in found if isinstance(topic, topics.UpChunk)]


def test_in_quiet_hours_nothing_large_moves_and_afterwards_it_does() -> None:
    pilot = Pilot()
    pilot.connect()
    pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
    pilot.serve()
    pilot.feed(ev.Quiet("quiet hours until 06:00"))
    pilot.feed(pilot.train())
    assert pilot.machine.phase is Phase.SENDING
    assert not pilot.said(Up.OFFER)
    pilot.feed(ev.Quiet(""))
    assert pilot.said(Up.OFFER)
    offer = TransferOffer.parse(pilot.said(Up.OFFER)[-1])
    pilot.feed(ev.Quiet("the network is metered"))
    pilot.down(Down.GRANT, Grant(offer.transfer, (0,)).to_bytes())
    assert not chunks(pilot)
    pilot.feed(ev.Quiet(""))
    pilot.feed(ev.Tick())
    assert chunks(pilot) == [0]


@given(st.integers(1, 8), st.floats(0.1, 30.0), st.integers(1, 12))
def test_a_links_rate_is_measured_whatever_is_asked_at_once(
    at_once: int, seconds: float, count: int
) -> None:
    """Pieces come one after the other, each `seconds` after the one before."""
    meter, size, now = Meter(), 64 * 1024, 0.0
    asked: list[float] = []
    for _ in range(count):
        while len(asked) < at_once:
            asked.append(now)
        now += seconds
        meter.add(size, asked.pop(0), now)
    found = meter.kbit(now)
    assert found is not None
    assert abs(found - size * 8 / 1000 / seconds) < 0.01 * found
    assert meter.kbit(now + LATELY_S + 1) is None  # it says nothing any more


def test_little_tells_nothing() -> None:
    meter = Meter()
    assert meter.kbit(0.0) is None
    meter.add(LEAST - 1, 0.0, 5.0)
    assert meter.kbit(5.0) is None
    meter.add(1, 5.0, 5.0)
    assert meter.kbit(5.0) is not None


def test_a_device_measures_what_it_asks_for() -> None:
    pilot = Pilot(Lab(graph=bytes(200_000)))
    pilot.connect()
    pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
    assert pilot.machine.kbit is None
    pilot.now += 4.0
    pilot.serve()
    found = pilot.machine.kbit
    assert found is not None
    assert found < 200_000 * 8 / 1000 / 4.0 * 1.01


def test_what_was_learned_from_is_the_last_update_that_may_count() -> None:
    pilot = Pilot()
    pilot.connect()
    assert pilot.machine.learned is None
    pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
    pilot.serve()
    finished = pilot.train()
    stats = RoundStats(counters=(("arrived_at_ms", 5), ("arrived_rows", 7)))
    pilot.feed(replace(finished, stats=stats))
    learned = pilot.machine.learned
    assert learned is not None
    assert Mark.of(dict(learned.counters)) == Mark(7, 5)
    update = TransferOffer.parse(pilot.said(Up.OFFER)[-1]).transfer
    pilot.down(Down.RECEIPT, pilot.lab.update_receipt(1, update, status=ReceiptStatus.REFUSED))
    assert pilot.machine.learned is None  # its samples are new again

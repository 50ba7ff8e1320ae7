"""Topics have one spelling, and whatever is none of ours is refused with a PeerFault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare import topics
from qflare.faults import PeerFault
from qflare.names import RESERVED, DeviceId, Digest, FleetId

label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
fleets = label.map(FleetId.parse)
devices = label.filter(lambda s: s not in RESERVED).map(DeviceId.parse)
digests = st.binary(min_size=32, max_size=32).map(Digest)
indices = st.integers(0, topics.INDEX_MAX)
metrics = st.from_regex(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
tokens = st.binary(min_size=16, max_size=16)

any_topic: st.SearchStrategy[topics.Topic] = st.one_of(
    st.builds(topics.UpTopic, fleets, devices, st.sampled_from(topics.Up)),
    st.builds(topics.UpChunk, fleets, devices, digests, indices),
    st.builds(topics.DownTopic, fleets, devices, st.sampled_from(topics.Down)),
    st.builds(topics.DownChunk, fleets, devices, digests, indices),
    st.builds(topics.StateTopic, fleets, devices),
    st.builds(topics.AllTopic, fleets, st.sampled_from(topics.All)),
    st.builds(topics.AllChunk, fleets, digests, indices),
    st.builds(topics.CoordinatorState, fleets),
    st.builds(topics.CoordinatorMetric, fleets, metrics),
    st.builds(topics.EnrolUp, fleets, tokens),
    st.builds(topics.EnrolDown, fleets, tokens),
)


@given(any_topic)
def test_parse_is_the_inverse_of_build(topic: topics.Topic) -> None:
    text = topics.build(topic)
    assert topics.parse(text) == topic
    assert len(text) <= topics.TOPIC_MAX
    assert not set(text) & set("+#\0$. ")


@given(st.one_of(st.text(max_size=250), any_topic.map(topics.build)), st.data())
def test_garbage_is_a_peer_fault_and_what_parses_has_one_spelling(
    text: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 3))
    changed = text[:at] + data.draw(st.text(max_size=3)) + text[at + cut :]
    try:
        topic = topics.parse(changed)
    except PeerFault:
        return
    assert topics.build(topic) == changed


@given(st.lists(st.sampled_from(["qflare", "1", "f", "d", "all", "up", "chunk", "state", "+", ""])))
def test_likely_segments_in_any_order(parts: list[str]) -> None:
    text = "/".join(parts)
    try:
        topic = topics.parse(text)
    except PeerFault:
        return
    assert topics.build(topic) == text


@pytest.mark.parametrize(
    "text",
    [
        "qflare/1/f/coordinator/up/hello",
        "qflare/1/f/all/up/hello",
        "qflare/1/f/dashboard/state",
        "qflare/1/f/d/up/chunk",
        "qflare/1/f/d/up/grant",
        "qflare/1/f/d/down/hello",
        "qflare/1/f/d/up/chunk/" + "0" * 64 + "/01",
        "qflare/1/f/d/up/chunk/" + "0" * 64 + "/-1",
        "qflare/1/f/d/up/chunk/" + "0" * 64 + "/1048576",
        "qflare/1/f/d/up/chunk/" + "0" * 64 + "/١",
        "qflare/1/f/d/up/chunk/" + "A" * 64 + "/1",
        "qflare/2/f/d/state",
        "qflare/1/f/enrol/state",
        "qflare/1/f/enrol/up/hello",
        "qflare/1/f/enrol/" + "0" * 31 + "/up",
        "qflare/1/f/enrol/" + "A" * 32 + "/up",
        "qflare/1/f/enrol/" + "0" * 32 + "/up/hello",
        "/qflare/1/f/d/state",
        "qflare/1/f/d/state/",
        "qflare/1/F/d/state",
        "$SYS/broker/uptime",
        "",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(PeerFault):
        topics.parse(text)


@given(fleets, devices, devices, any_topic)
def test_a_device_is_kept_to_its_own(
    fleet: FleetId, device: DeviceId, other: DeviceId, topic: topics.Topic
) -> None:
    access = topics.rules(fleet).device.for_device(device)
    text = topics.build(topic)
    for rule in access.write:
        if topics.matches(rule, text):
            assert isinstance(topic, topics.UpTopic | topics.UpChunk | topics.StateTopic)
            assert (topic.fleet, topic.device) == (fleet, device)
    if other != device:
        theirs = topics.build(topics.DownTopic(fleet, other, topics.Down.GRANT))
        assert not any(topics.matches(rule, theirs) for rule in access.read)


@given(any_topic)
def test_exactly_one_side_writes_a_topic_and_somebody_reads_it(topic: topics.Topic) -> None:
    rules = topics.rules(topic.fleet)
    text = topics.build(topic)
    device = getattr(topic, "device", DeviceId.parse("somebody"))
    by_device = any(topics.matches(r, text) for r in rules.device.for_device(device).write)
    ticket = rules.for_token(topics.token_user(getattr(topic, "token", bytes(16))))
    by_ticket = any(topics.matches(r, text) for r in ticket.write)
    by_coordinator = any(topics.matches(r, text) for r in rules.coordinator.write)
    assert by_device + by_ticket + by_coordinator == 1
    own = ticket if isinstance(topic, topics.EnrolDown) else rules.device.for_device(device)
    readers = own.read if by_coordinator else rules.coordinator.read
    if not isinstance(topic, topics.CoordinatorMetric):
        assert any(topics.matches(r, text) for r in readers)
    assert not rules.dashboard.write


@given(fleets, tokens, any_topic)
def test_a_ticket_reaches_its_own_two_topics_and_nothing_else(
    fleet: FleetId, token: bytes, topic: topics.Topic
) -> None:
    access = topics.rules(fleet).for_token(topics.token_user(token))
    text = topics.build(topic)
    may_write = any(topics.matches(rule, text) for rule in access.write)
    may_read = any(topics.matches(rule, text) for rule in access.read)
    assert may_write == (topic == topics.EnrolUp(fleet, token))
    assert may_read == (topic == topics.EnrolDown(fleet, token))


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/+/c", "a/b/c", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("a/b", "a/b/c", False),
    ],
)
def test_filters_match_as_mqtt_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert topics.matches(topic_filter, topic) is expected

"""Every message: a strict inverse, a tag of its own, and nothing but PeerFault for garbage."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qflare import codec
from qflare.faults import PeerFault, Reason
from qflare.messages import Message
from tests.strategies import MESSAGES, record

pytestmark = pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
quick = settings(
    max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@quick
@given(data=st.data())
def test_parse_inverts_to_bytes(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(record(kind))
    spelled = message.to_bytes()
    assert len(spelled) <= kind.CEILING
    assert kind.parse(spelled) == message
    assert kind.parse(spelled).to_bytes() == spelled


@quick
@given(data=st.data())
def test_any_damage_is_refused_or_is_another_valid_message(
    kind: type[Message], data: st.DataObject
) -> None:
    spelled = bytearray(data.draw(record(kind)).to_bytes())
    at = data.draw(st.integers(0, len(spelled) - 1))
    spelled[at] ^= data.draw(st.integers(1, 255))
    try:
        message = kind.parse(bytes(spelled))
    except PeerFault:
        return
    assert message.to_bytes() == bytes(spelled)


@quick
@given(data=st.data())
def test_fields_more_or_less_are_refused(kind: type[Message], data: st.DataObject) -> None:
    value = [kind.TAG, *data.draw(record(kind)).to_value()]
    with pytest.raises(PeerFault) as caught:
        kind.parse(codec.encode([*value, 0]))
    assert caught.value.reason in (Reason.UNKNOWN_FIELD, Reason.TOO_LARGE)
    with pytest.raises(PeerFault):
        kind.parse(codec.encode(value[:-1]))


@given(data=st.binary(max_size=100))
@settings(max_examples=50)
def test_garbage_is_refused(kind: type[Message], data: bytes) -> None:
    try:
        message = kind.parse(data)
    except PeerFault:
        return
    assert message.to_bytes() == data


def test_tags_and_contexts_are_unique(kind: type[Message]) -> None:
    others = [other for other in MESSAGES if other is not kind]
    assert kind.TAG not in {other.TAG for other in others}
    context = getattr(kind, "CONTEXT", None)
    assert context is None or context not in {getattr(other, "CONTEXT", None) for other in others}

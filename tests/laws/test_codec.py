"""The codec: one spelling for each value, and nothing but PeerFault for any other bytes."""

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qflare import codec
from qflare.faults import LocalFault, PeerFault, Reason

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=30),
    max_leaves=40,
)


@given(values)
def test_decode_inverts_encode(value: codec.Value) -> None:
    spelled = codec.encode(value)
    decoded = codec.decode(spelled, len(spelled))
    assert codec.encode(decoded) == spelled
    assert decoded == value


@given(values)
def test_an_independent_decoder_reads_the_same(value: codec.Value) -> None:
    assert cbor2.loads(codec.encode(value)) == value


@given(st.binary(max_size=200))
@example(b"\x18\x00")  # 0 in two bytes
@example(b"\x82\x00")  # truncated array
@example(b"\x9f\xff")  # indefinite array
@example(b"\xa1\x00\x00")  # map
@example(b"\xc0\x00")  # tag
@example(b"\xf9\x00\x00")  # half float
@example(b"\xfb\x7f\xf8" + bytes(6))  # NaN
@example(b"\x9b" + b"\xff" * 8)  # array of 2^64-1
@example(b"\x00\x00")  # something after
@example(b"\x81" * 100)  # nested without end
@example(b"\x61\xff")  # not UTF-8
def test_garbage_is_refused_or_is_the_one_spelling(data: bytes) -> None:
    try:
        value = codec.decode(data, 4096)
    except PeerFault:
        return
    assert codec.encode(value) == data


@given(values, st.data())
def test_every_truncation_is_refused(value: codec.Value, data: st.DataObject) -> None:
    spelled = codec.encode(value)
    cut = data.draw(st.integers(0, len(spelled) - 1))
    with pytest.raises(PeerFault):
        codec.decode(spelled[:cut], 1 << 20)


def test_ceiling_is_checked_before_anything_is_read() -> None:
    with pytest.raises(PeerFault) as caught:
        codec.decode(b"\xff" * 11, 10)
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, -(2**64) - 1, object(), {}])
def test_what_has_no_spelling_is_our_own_fault(value: object) -> None:
    with pytest.raises(LocalFault):
        codec.encode(value)  # type: ignore[arg-type]

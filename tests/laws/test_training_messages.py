"""What a training process and its daemon say: one spelling each, and garbage is a PeerFault."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.training.messages import (
    HEAD,
    Bench,
    Control,
    DataFound,
    EvaluateOrder,
    Evaluation,
    Failed,
    Lost,
    Progress,
    Ready,
    Setup,
    Trained,
    TrainOrder,
    Verb,
    parse_order,
    parse_report,
)
from qflare.faults import PeerFault
from qflare.names import Digest
from qflare.schedule import Schedule
from tests.edge_lab import DEVICE

BENCH = Bench(DEVICE, "/state/blobs", "/state", b'{"path": "/data.npz"}', 7, 60.0, 0.5)
BLOB = Digest.of(b"blob")
ORDERS = (
    TrainOrder(
        1, BENCH, BLOB, BLOB, 3, Schedule(20, 1, 0.05, 0.1, 0.9, 1.0), "q8", 4.0, 100, b"r", b"p"
    ),
    TrainOrder(2, BENCH, BLOB, BLOB, 3, Schedule(20, 1, 0.05, 0.1, 0.9, 1.0), "q8", 4.0, 100),
    EvaluateOrder(3, replace(BENCH, insecure_seed=None), BLOB, BLOB, None),
    Control(1, Verb.HOLD),
)
STAGES = (("compress", 0.1), ("train", 1.0))
REPORTS = (
    Ready(("nice 10: Operation not permitted",), ""),
    Progress(1, "training", 130),
    Trained(1, 40, b"encoded", (4, 2, 3, 10, 9), b"left", None, STAGES, (("steps", 3),)),
    Failed(1, "stopped", True),
    Evaluation(3, 10, 5, 1.5, 0.1, 50_000),
    Lost(1, BLOB, "is damaged"),
    DataFound(DEVICE, 40, 10, (("border", 2), ("stuck", 3)), ("a channel doesn't move",)),
)


@pytest.mark.parametrize("message", ORDERS, ids=lambda m: type(m).__name__)
def test_orders_come_back(message: object) -> None:
    assert parse_order(message.to_bytes()) == message  # type: ignore[attr-defined]


@pytest.mark.parametrize("message", REPORTS, ids=lambda m: type(m).__name__)
def test_reports_come_back(message: object) -> None:
    assert parse_report(message.to_bytes()) == message  # type: ignore[attr-defined]


@given(st.binary(max_size=200))
def test_garbage_is_a_fault_and_nothing_else(data: bytes) -> None:
    for parse in (parse_order, parse_report, Setup.parse):
        with pytest.raises(PeerFault):
            parse(data)


@given(st.sampled_from(REPORTS), st.data())
def test_a_damaged_report_is_a_fault_or_another_report(report: object, data: st.DataObject) -> None:
    whole = report.to_bytes()  # type: ignore[attr-defined]
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    for damaged in (whole[:at], flipped):
        try:
            found = parse_report(damaged)
        except PeerFault:
            continue
        assert found.to_bytes() == damaged


@pytest.mark.parametrize(
    "bad",
    [
        Progress(1, "x", 0).to_bytes().replace(b"x", b"x" * 41).replace(b"\x61x", b"\x78\x29x"),
        HEAD.pack(5),
    ],
)
def test_what_is_out_of_bounds_is_a_fault(bad: bytes) -> None:
    with pytest.raises(PeerFault):
        parse_report(bad)


def test_values_out_of_bounds_are_refused() -> None:
    for make in (
        lambda: Setup(0, 1, 0),
        lambda: Setup(1, 0, 0),
        lambda: Setup(1, 1, 20),
        lambda: Evaluation(1, 3, 4, 0.0, 0.0, 0),
        lambda: replace(REPORTS[2], stages=STAGES[:1]),  # type: ignore[type-var]
        lambda: replace(REPORTS[2], counters=(("steps", -1),)),  # type: ignore[type-var]
        lambda: DataFound(DEVICE, -1, 0, (), ()),
        lambda: DataFound(DEVICE, 0, 0, (("stuck", -1),), ()),
        lambda: DataFound(DEVICE, 0, 0, (), ("x",) * 17),
        lambda: DataFound(DEVICE, 0, 0, (), ("x" * 2001,)),
    ):
        with pytest.raises(PeerFault):
            make()

"""What tallies may be, how they add up, and what is said of their sum."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.validation import figures
from qflare import codec, tallies
from qflare.faults import PeerFault, Reason
from qflare.messages import (
    KIB,
    ZERO,
    Checkpoint,
    Evidence,
    ModelReady,
    RoundReceipt,
)
from qflare.names import FleetId
from qflare.policy import COHORT_MAX, WEIGHT_MAX
from qflare.tallies import CLASSES_MAX, LOSS_MAX, Tallies
from tests import strategies
from tests.vectors.make_protocol import claims

GOOD = (6, 3, 4, 2, 0, 1, 9_216, 7_000)


@given(strategies.tallies(4), strategies.tallies(4), strategies.tallies(4))
def test_sums_are_tallies_in_any_order(a: Tallies, b: Tallies, c: Tallies) -> None:
    total = tallies.add(tallies.add(a, b), c)
    assert total == tallies.add(a, tallies.add(c, b))
    assert tallies.add(total, tallies.zeros(4)) == total
    tallies.verify(total, 4, 3_000)
    assert tallies.classes_of(total) == 4


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("change", [-7, +7, 2**63])
def test_no_count_can_be_moved_far(at: int, change: int) -> None:
    bad = list(GOOD)
    bad[at] += change
    with pytest.raises(PeerFault) as refused:
        tallies.verify(tuple(bad), 2, 8)
    assert refused.value.reason is Reason.BAD_TALLIES


@pytest.mark.parametrize(
    "bad",
    [
        (),
        GOOD[:-1],
        (*GOOD, 0),
        (*GOOD, 0, 0, 0),
        (6, 3, 4, 3, 0, 1, 0, 0),  # an example more than the cap
        (*GOOD[:6], 8 * LOSS_MAX + 1, 0),
        (*GOOD[:6], 0, 8 * LOSS_MAX + 1),
        (*GOOD[:6], -1, 0),
        (*GOOD[:6], 0, -1),
        (0, 0, 0, 0, 0, 0, 1, 0),  # a loss of no example
    ],
)
def test_refused(bad: Tallies) -> None:
    with pytest.raises(PeerFault) as refused:
        tallies.verify(bad, 2, 8)
    assert refused.value.reason is Reason.BAD_TALLIES


def test_at_the_edge() -> None:
    tallies.verify(tallies.zeros(2), 2, 1)
    tallies.verify((6, 6, 0, 2, 2, 0, 8 * LOSS_MAX, 0), 2, 8)


@pytest.mark.parametrize("numbers", [0, 1, 2, 3, 4, 6, 7, 3 * CLASSES_MAX + 5])
def test_only_whole_rows_and_not_too_many(numbers: int) -> None:
    with pytest.raises(PeerFault):
        tallies.classes_of((0,) * numbers)


@given(strategies.tallies(5))
def test_what_is_said_of_them_are_shares(said: Tallies) -> None:
    found = figures(said)
    if found is None:
        assert said == tallies.zeros(5)
        return
    assert found["examples"] == sum(said[:-2:3]) == sum(found["class_examples"])
    for when in ("before", "after"):
        assert 0 <= found[f"accuracy_{when}"] <= 1
        assert 0 <= found[f"loss_{when}"] <= 1024
        none = [recall is None for recall in found[f"recall_{when}"]]
        assert none == [not examples for examples in said[:-2:3]]


def test_figures_by_hand() -> None:
    assert figures((6, 3, 4, 0, 0, 0, 2, 0, 1, 8 * 1024, 4 * 1024)) == {
        "examples": 8,
        "class_examples": [6, 0, 2],
        "accuracy_before": 0.375,
        "recall_before": [0.5, None, 0.0],
        "loss_before": 1.0,
        "accuracy_after": 0.625,
        "recall_after": [0.666667, None, 0.5],
        "loss_after": 0.5,
    }


def longest_receipt() -> RoundReceipt:
    """As many classes, devices and reasons as there can be, each count as long as it gets."""
    most = COHORT_MAX * WEIGHT_MAX
    rows = (most // CLASSES_MAX,) * (3 * CLASSES_MAX)
    spoken = claims()
    return RoundReceipt(
        fleet=FleetId("f" * 32),
        manifest=ZERO,
        round=2**31 - 1,
        epoch=2**63 - 1,
        step=2**31 - 1,
        claims=spoken.digest,
        policy=ZERO,
        previous_receipt=ZERO,
        previous_model=ZERO,
        model=ZERO,
        state=ZERO,
        admitted=COHORT_MAX,
        refused=tuple(sorted((reason.value, 2**63) for reason in Reason)),
        total_weight=most,
        updates=ZERO,
        seed=ZERO,
        tallies=(*rows, most * LOSS_MAX, most * LOSS_MAX),
    )


def test_the_longest_receipt_can_be_said_and_shown() -> None:
    receipt = longest_receipt()
    assert RoundReceipt.parse(receipt.to_bytes()) == receipt
    ready = ModelReady(
        fleet=receipt.fleet,
        receipt=receipt.to_bytes() + bytes(4 * KIB),  # a signature and its frame
        claims=claims(),
        evidence=Evidence("p" * 64, bytes(Evidence.CEILING - KIB)),
        checkpoint=Checkpoint(2**31 - 1, ZERO),
        inclusion=(ZERO,) * 64,
        consistency=(ZERO,) * 64,
        model_size=2**30,
    )
    assert ModelReady.parse(ready.to_bytes()) == ready


@given(st.integers(1, 2**20), st.integers(1, 300))
def test_no_honest_tallies_are_longer_than_the_ceiling_counts(cap: int, classes: int) -> None:
    most = (cap,) * (3 * classes) + (cap * LOSS_MAX,) * 2
    assert len(codec.encode(list(most))) <= tallies.spelled_max(classes)

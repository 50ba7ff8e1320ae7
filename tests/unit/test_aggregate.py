"""What `admit` refuses, and the round's limits."""

import numpy as np
import pytest

from enclave.aggregate import Accumulator, Limits
from qflare.compression import CODECS
from qflare.compression.encoding import encode
from qflare.faults import PeerFault, Reason
from qflare.tallies import Tallies, zeros
from qflare.tensors import BlockVector

LIMITS = Limits(size=5, clip_norm=1.0, weight_cap=10, min_cohort=2, max_cohort=3, classes=2)
NONE = zeros(2)
SOME = (3, 1, 2, 4, 4, 0, 700, 300)  # of seven examples in two classes


def update(*values: float) -> BlockVector:
    return encode(np.array(values, np.float32), CODECS["fixed32"], np.random.default_rng(0))[1]


def test_weighted_mean() -> None:
    accumulator = Accumulator(LIMITS)
    accumulator.admit(update(0.5, 0, 0, 0, -0.25), 3, NONE)
    with pytest.raises(PeerFault) as early:
        accumulator.mean()
    assert early.value.reason is Reason.BELOW_MIN_COHORT
    accumulator.admit(update(0, 0.5, 0, 0, 0.75), 1, NONE)
    assert accumulator.mean().tolist() == [0.375, 0.125, 0, 0, 0]
    assert (accumulator.count, accumulator.total_weight) == (2, 4)
    accumulator.admit(update(0.25, 0, 0, 0, 0), 4, NONE)
    assert accumulator.mean().tolist() == [0.3125, 0.0625, 0, 0, 0]
    with pytest.raises(PeerFault) as full:
        accumulator.admit(update(0, 0, 0, 0, 0), 1, NONE)
    assert full.value.reason is Reason.COHORT_FULL


@pytest.mark.parametrize(
    ("bad", "weight", "tallies", "reason"),
    [
        (update(0, 0, 0, 0), 1, SOME, Reason.WRONG_SHAPE),
        (update(0, 0, 0, 0, 0), 0, SOME, Reason.BAD_WEIGHT),
        (update(0, 0, 0, 0, 0), -4, SOME, Reason.BAD_WEIGHT),
        (update(0, 0, 0, 0, 0), 11, SOME, Reason.BAD_WEIGHT),
        (update(0, 0, 0, 0, 0), 1, SOME[:-1], Reason.BAD_TALLIES),
        (update(0, 0, 0, 0, 0), 1, zeros(1), Reason.BAD_TALLIES),
        (update(1, 0.001, 0, 0, 0), 1, SOME, Reason.NORM_TOO_LARGE),
    ],
)
def test_refused_updates_leave_no_trace(
    bad: BlockVector, weight: int, tallies: Tallies, reason: Reason
) -> None:
    accumulator = Accumulator(LIMITS)
    for _ in range(2):
        accumulator.admit(update(0.1, 0.2, 0.3, 0.4, 0.5), 5, SOME)
    before = accumulator.mean().tobytes()
    with pytest.raises(PeerFault) as refused:
        accumulator.admit(bad, weight, tallies)
    assert refused.value.reason is reason
    assert accumulator.mean().tobytes() == before
    assert (accumulator.count, accumulator.total_weight) == (2, 10)
    assert accumulator.tallies == (6, 2, 4, 8, 8, 0, 1400, 600)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 2**40},
        {"clip_norm": 0.0},
        {"weight_cap": 2**40},
        {"min_cohort": 0},
        {"min_cohort": 4},
    ],
)
def test_senseless_limits_are_refused(wrong: dict[str, int]) -> None:
    values = {"size": 5, "clip_norm": 1.0, "weight_cap": 10, "min_cohort": 2, "max_cohort": 3}
    values["classes"] = 1
    with pytest.raises(PeerFault) as refused:
        Limits(**(values | wrong))  # type: ignore[arg-type]
    assert refused.value.reason is Reason.POLICY_NOT_ALLOWED

"""The server step: FedAvg and momentum, its state, its refusals."""

import numpy as np
import pytest

from enclave.step import ServerOptimiser, StepState, step
from qflare.faults import LocalFault, PeerFault, Reason

FEDAVG = ServerOptimiser("fedavgm", momentum=0.0, learning_rate=1.0)


def test_without_momentum_it_adds_the_mean() -> None:
    weights, mean = np.array([1, 2], np.float32), np.array([0.5, -1.0])
    following, state = step(weights, StepState.initial(2), mean, FEDAVG)
    assert following.tolist() == [1.5, 1.0]
    assert following.dtype == np.float32
    again, _ = step(following, state, mean, FEDAVG)
    assert again.tolist() == [2.0, 0.0]
    assert weights.tolist() == [1, 2]


def test_momentum() -> None:
    optimiser = ServerOptimiser("fedavgm", momentum=0.5, learning_rate=2.0)
    weights, state = np.zeros(1, np.float32), StepState.initial(1)
    seen = []
    for _ in range(3):
        weights, state = step(weights, state, np.array([1.0]), optimiser)
        seen.append(float(weights[0]))
    assert seen == [2.0, 5.0, 8.5]


def test_restored_state_continues_with_the_same_bytes() -> None:
    rng = np.random.default_rng(0)
    optimiser = ServerOptimiser("fedavgm", momentum=0.9, learning_rate=0.7)
    weights, state = rng.standard_normal(50).astype(np.float32), StepState.initial(50)
    for _ in range(3):
        mean = rng.standard_normal(50)
        restored = StepState.from_bytes(state.to_bytes(), 50)
        there, _ = step(weights, restored, mean, optimiser)
        weights, state = step(weights, state, mean, optimiser)
        assert there.tobytes() == weights.tobytes()


def test_state_is_parsed_strictly() -> None:
    with pytest.raises(PeerFault) as short:
        StepState.from_bytes(bytes(7), 2)
    assert short.value.reason is Reason.WRONG_SHAPE
    with pytest.raises(PeerFault) as infinite:
        StepState.from_bytes(np.array([np.inf], "<f4").tobytes(), 1)
    assert infinite.value.reason is Reason.NOT_FINITE


def test_shapes_and_overflow_are_refused() -> None:
    weights = np.full(2, 3e38, np.float32)
    with pytest.raises(LocalFault):
        step(weights, StepState.initial(3), np.zeros(2), FEDAVG)
    with pytest.raises(LocalFault):
        step(weights, StepState.initial(2), np.full(2, 3e38), FEDAVG)


@pytest.mark.parametrize(
    ("kind", "momentum", "rate"),
    [
        ("adam", 0, 1),
        ("fedavgm", 1.0, 1),
        ("fedavgm", -0.1, 1),
        ("fedavgm", float("nan"), 1),
        ("fedavgm", 0, 0),
        ("fedavgm", 0, float("inf")),
    ],
)
def test_senseless_optimisers_are_refused(kind: str, momentum: float, rate: float) -> None:
    with pytest.raises(PeerFault) as refused:
        ServerOptimiser(kind, momentum, rate)  # type: ignore[arg-type]
    assert refused.value.reason is Reason.POLICY_NOT_ALLOWED

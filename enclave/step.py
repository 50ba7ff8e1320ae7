"""The step: from the aggregate to the next global model, in the enclave so a receipt covers it.

Federated averaging with server momentum (Hsu, Qi and Brown, 2019): v ← momentum · v + mean,
w ← w + learning_rate · v. Momentum 0 and learning rate 1 are FedAvg. Each operation is one IEEE
float64 operation per coordinate in this order, and the results are rounded to float32 once, so
every machine gets the same bytes.
"""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from qflare.faults import LocalFault, PeerFault, Reason
from qflare.tensors import DoubleVector, FloatVector, weights_from_bytes, weights_to_bytes


@dataclass(frozen=True, slots=True)
class ServerOptimiser:
    """How the mean of the updates moves the model; part of the round policy."""

    kind: Literal["fedavgm"]
    momentum: float
    learning_rate: float

    def __post_init__(self) -> None:
        if self.kind != "fedavgm":
            raise PeerFault(Reason.POLICY_NOT_ALLOWED, f"optimiser {self.kind!r}: want 'fedavgm'")
        if not 0 <= self.momentum < 1:
            raise PeerFault(Reason.POLICY_NOT_ALLOWED, f"momentum {self.momentum} outside [0, 1)")
        if not 0 < self.learning_rate <= 100:
            raise PeerFault(
                Reason.POLICY_NOT_ALLOWED, f"learning rate {self.learning_rate} outside (0, 100]"
            )


@dataclass(frozen=True, slots=True, eq=False)
class StepState:
    """What the optimiser carries from round to round: the velocity float32[n]."""

    velocity: FloatVector

    @classmethod
    def initial(cls, size: int) -> Self:
        """At rest."""
        return cls(np.zeros(size, np.float32))

    def to_bytes(self) -> bytes:
        """Little-endian float32, four bytes a coordinate."""
        return weights_to_bytes(self.velocity)

    @classmethod
    def from_bytes(cls, data: bytes, size: int) -> Self:
        """Parse `to_bytes` output; raise PeerFault(WRONG_SHAPE or NOT_FINITE)."""
        return cls(weights_from_bytes(data, size))


def step(
    weights: FloatVector, state: StepState, mean: DoubleVector, optimiser: ServerOptimiser
) -> tuple[FloatVector, StepState]:
    """Return the next (weights float32[n], state); the arguments are left as they were.

    Raise LocalFault if shapes differ or a result isn't finite.
    """
    if not weights.shape == state.velocity.shape == mean.shape:
        raise LocalFault("weights, velocity and mean must have one shape: restore a matching state")
    velocity = optimiser.momentum * state.velocity.astype(np.float64)
    velocity += mean
    moved = weights.astype(np.float64) + optimiser.learning_rate * velocity
    with np.errstate(over="ignore"):
        following, kept = moved.astype(np.float32), velocity.astype(np.float32)
    if not (np.isfinite(following).all() and np.isfinite(kept).all()):
        raise LocalFault("the step left the range of float32: lower the server learning rate")
    return following, StepState(kept)

"""How a training run is paced: local epochs, learning rates, and the server optimiser's step."""

import math
from dataclasses import dataclass
from typing import ClassVar

from qflare.record import Record, check


@dataclass(frozen=True)
class Schedule(Record):
    """Part of the signed round policy; the same for every device.

    The step is FedAvgM (Hsu, Qi, Brown 2019, arXiv:1909.06335): velocity = server_momentum *
    velocity + aggregate; weights += server_learning_rate * velocity. Momentum 0 and rate 1 are
    FedAvg (McMahan et al. 2017, arXiv:1602.05629).
    """

    CEILING: ClassVar[int] = 256

    rounds: int  # the decay ends here; later rounds go on at the final rate
    local_epochs: int
    learning_rate: float  # on the device, in round 1
    learning_rate_final_fraction: float  # of it, in the last round
    server_momentum: float
    server_learning_rate: float

    def __post_init__(self) -> None:
        check(1 <= self.rounds <= 1_000_000, "schedule: rounds outside 1…1,000,000")
        check(1 <= self.local_epochs <= 1_000, "schedule: local_epochs outside 1…1,000")
        check(0 < self.learning_rate <= 100, "schedule: learning_rate outside (0, 100]")
        check(0 < self.learning_rate_final_fraction <= 1, "schedule: final fraction outside (0, 1]")
        check(0 <= self.server_momentum < 1, "schedule: server_momentum outside [0, 1)")
        check(0 < self.server_learning_rate <= 10, "schedule: server_learning_rate outside (0, 10]")

    def learning_rate_at(self, step: int) -> float:
        """The devices' learning rate when `step` - 1 models have been released (cosine decay)."""
        done = min(max(step - 1, 0) / max(self.rounds - 1, 1), 1.0)
        low = self.learning_rate_final_fraction
        return self.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))

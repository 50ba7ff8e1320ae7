"""How a training run is paced and bounded: on the device, and in the server optimiser's step."""

import math
from dataclasses import dataclass
from typing import ClassVar

from qflare.record import Record, check


@dataclass(frozen=True)
class Schedule(Record):
    """Part of the signed round policy; the same for every device.

    The step is FedAvgM (Hsu, Qi, Brown 2019, arXiv:1909.06335): velocity = server_momentum *
    velocity + aggregate; weights += server_learning_rate * velocity. Momentum 0 and rate 1 are
    FedAvg (McMahan et al. 2017, arXiv:1602.05629). On the device, `proximal_mu` holds the local
    weights to the global ones (FedProx, Li et al. 2020, arXiv:1812.06127), and `example_clip` with
    `noise_multiplier` bounds and blurs what one example can do to them (DP-SGD, Abadi et al. 2016,
    arXiv:1607.00133), which takes a model that was built for it.
    """

    CEILING: ClassVar[int] = 256

    rounds: int  # the decay ends here; later rounds go on at the final rate
    local_epochs: int
    learning_rate: float  # on the device, in round 1
    learning_rate_final_fraction: float  # of it, in the last round
    server_momentum: float
    server_learning_rate: float
    proximal_mu: float = 0.0  # the gradient gets mu · (local - global); 0: none
    example_clip: float = 0.0  # L2 norm of each example's gradient; 0: not private
    noise_multiplier: float = 0.0  # standard deviation of the noise, in units of example_clip

    def __post_init__(self) -> None:
        check(1 <= self.rounds <= 1_000_000, "schedule: rounds outside 1…1,000,000")
        check(1 <= self.local_epochs <= 1_000, "schedule: local_epochs outside 1…1,000")
        check(0 < self.learning_rate <= 100, "schedule: learning_rate outside (0, 100]")
        check(0 < self.learning_rate_final_fraction <= 1, "schedule: final fraction outside (0, 1]")
        check(0 <= self.server_momentum < 1, "schedule: server_momentum outside [0, 1)")
        check(0 < self.server_learning_rate <= 10, "schedule: server_learning_rate outside (0, 10]")
        check(0 <= self.proximal_mu <= 100, "schedule: proximal_mu outside 0…100")
        clip, noise = self.example_clip, self.noise_multiplier
        check(clip == 0 or 2.0**-16 <= clip <= 1024, "schedule: example_clip outside 2^-16…1024")
        check(0 <= noise <= 100, "schedule: noise_multiplier outside 0…100")
        check(noise == 0 or clip > 0, "schedule: noise_multiplier without an example_clip")

    def learning_rate_at(self, step: int) -> float:
        """The devices' learning rate when `step` - 1 models have been released (cosine decay)."""
        done = min(max(step - 1, 0) / max(self.rounds - 1, 1), 1.0)
        low = self.learning_rate_final_fraction
        return self.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))

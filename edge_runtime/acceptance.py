"""Is a new model good enough here to be used here? Pure.

A global model may be better for the fleet and worse for one device: its application keeps the one
that it has, until a release comes that is good enough here too.
"""

import math
from dataclasses import dataclass

from qflare.faults import LocalFault


class Unusable(LocalFault):
    """The model is at fault, not this machine: trying again would find the same."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How a model did on the local validation part; sums over the examples."""

    examples: int
    correct: int
    loss_sum: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.examples if self.examples else 0.0

    @property
    def loss(self) -> float:
        return self.loss_sum / self.examples if self.examples else 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much worse than the active model a new one may be.

    `max_accuracy_drop` is a share of the examples, to which two standard deviations are added of
    what chance does to so few examples. `max_loss_rise` is a share of the active model's loss; it
    counts for models that have no accuracy. With fewer than `min_examples` nothing is compared.
    """

    max_accuracy_drop: float = 0.1
    max_loss_rise: float = 0.5
    min_examples: int = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a model becomes active, and why."""

    accepted: bool
    reason: str


def judge(new: Scores, active: Scores | None, bounds: Bounds, counted: bool) -> Verdict:
    """Hold a model that passed its self-test against the active one, on the same examples.

    `active` is None if there is none to compare with. `counted`: the task has right answers to
    count; without, the losses are compared.
    """
    if not new.examples:
        return Verdict(True, "by its self-test alone: there is no local data to try it on")
    if not math.isfinite(new.loss_sum):
        return Verdict(False, "its loss on the local data is not finite")
    if active is None:
        return Verdict(True, "there is no active model to compare it with")
    if active.examples != new.examples or new.examples < bounds.min_examples:
        few = f"{new.examples} local examples are too few to compare"
        return Verdict(True, f"by its self-test alone: {few}")
    return _by_accuracy(new, active, bounds) if counted else _by_loss(new, active, bounds)


def _by_accuracy(new: Scores, active: Scores, bounds: Bounds) -> Verdict:
    n = active.examples
    share = (active.correct + 1) / (n + 2)  # never 0 or 1, where chance would seem to do nothing
    chance = 2 * math.sqrt(2 * n * share * (1 - share))
    least = active.correct - bounds.max_accuracy_drop * n - chance
    told = f"accuracy {new.accuracy:.3f} on {n} local examples, the active model's "
    told += f"{active.accuracy:.3f}"
    if new.correct < least:
        return Verdict(False, f"{told}; at least {max(least, 0) / n:.3f} is wanted")
    return Verdict(True, told)


def _by_loss(new: Scores, active: Scores, bounds: Bounds) -> Verdict:
    most = active.loss * (1 + bounds.max_loss_rise)
    told = f"loss {new.loss:.4g} on {new.examples} local examples, the active model's "
    told += f"{active.loss:.4g}"
    if math.isfinite(active.loss) and not new.loss <= max(most, 1e-6):
        return Verdict(False, f"{told}; at most {most:.4g} is wanted")
    return Verdict(True, told)

"""What a report says: the figures of a run, and what follows from them alone; pure."""

import math
from dataclasses import dataclass, field
from typing import Any

from qflare.simulate.report.inputs import ScoreRecord

ACCURACY_MARGIN = 0.02  # what sealing and compression may cost, on average over seeds
UNCOUNTED_TASKS = ("regression", "autoencoder")  # whose examples are neither right nor wrong


@dataclass(frozen=True)
class RoundFigures:
    """One round; times in seconds, sizes in bytes, accuracy and loss of the released model.

    Accuracy is None for a task whose examples are neither right nor wrong.
    """

    number: int
    step: int
    status: str
    accuracy: float | None
    loss: float | None
    reference_accuracy: float | None
    reference_loss: float | None
    invited: int
    received: int
    admitted: int
    refused: dict[str, int]
    update_bytes: int  # the sum of all updates on the wire
    encoded_bytes: int  # the same updates as the codec made them
    float32_bytes: int  # the same updates as plain float32
    wall_s: float | None
    training_s: float | None  # at least one device was training
    overhead_s: float | None
    model: str


@dataclass(frozen=True)
class StageFigures:
    """One stage over the whole run, in seconds; `where` is "device" or "enclave"."""

    name: str
    where: str
    samples: int
    total_s: float
    low_s: float  # 10th percentile
    median_s: float
    high_s: float  # 90th percentile


@dataclass(frozen=True)
class DeviceFigures:
    """One device: how good the final model is on its test part, and what it did."""

    name: str
    accuracy: float | None
    loss: float | None
    test_examples: int
    train_examples: int
    rounds: int
    train_s_median: float | None
    update_bytes_median: float | None
    rss_mb: float | None


@dataclass(frozen=True)
class Sizes:
    """One update, medians in bytes; the parts add up to `wire`."""

    float32: float | None = None
    encoded: float | None = None
    wire: float | None = None
    signature: int = 0
    encapsulation: int = 0  # of the key, with the AEAD's tag

    @property
    def fixed(self) -> int:
        """What every update costs, whatever the model's size."""
        return self.signature + self.encapsulation

    @property
    def padding(self) -> float | None:
        """Header, framing and padding: whatever is neither codec output nor fixed cost."""
        if self.wire is None or self.encoded is None:
            return None
        return max(0.0, self.wire - self.encoded - self.fixed)


@dataclass(frozen=True)
class Report:
    """Everything that is shown of a run."""

    status: str  # "ok" or "failed"
    reasons: tuple[str, ...]  # why it failed
    task: str
    final_accuracy: float | None
    reference_accuracy: float | None
    final_loss: float | None
    reference_loss: float | None
    score: ScoreRecord | None  # of the final model, for data with anomalies
    reference_score: ScoreRecord | None
    reference_s: float | None
    evaluated_devices: int  # that reported on the final model
    rounds: int  # released
    rounds_requested: int
    devices: int
    wall_s: float | None
    overhead_s_per_round_median: float | None
    sizes: Sizes
    broker: str
    suite: str
    codec: str
    evidence: str
    evidence_simulated: bool
    refused: dict[str, int]
    restarts: tuple[str, ...]
    run: dict[str, Any] = field(default_factory=dict)
    per_round: tuple[RoundFigures, ...] = ()
    per_stage: tuple[StageFigures, ...] = ()
    per_device: tuple[DeviceFigures, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def counted(self) -> bool:
        """Whether answers are right or wrong, so that there is an accuracy."""
        return self.task not in UNCOUNTED_TASKS

    @property
    def released(self) -> tuple[RoundFigures, ...]:
        return tuple(r for r in self.per_round if r.status == "released")

    @property
    def gap(self) -> float | None:
        """How far the final accuracy is above the reference; negative is below."""
        if self.final_accuracy is None or self.reference_accuracy is None:
            return None
        return self.final_accuracy - self.reference_accuracy

    @property
    def test_examples(self) -> int:
        """Whose answers the final accuracy counts."""
        return sum(device.test_examples for device in self.per_device)

    @property
    def gap_error(self) -> float | None:
        """The standard error of `gap`: how far chance alone moves it, with so few test examples.

        Two binomial shares of n examples each: sqrt(p(1-p)/n + q(1-q)/n). Both runs answer the same
        examples, which makes the real error smaller, and both are chaotic, which makes it larger: a
        change of the initial weights by a millionth moves a run's final accuracy as far as another
        seed does. On the default data (745 examples) this says 1.5 points; measured, the gap's
        standard deviation was 1.2 (training seeds alone) and 1.6 (data and training seeds).
        """
        if self.final_accuracy is None or self.reference_accuracy is None or not self.test_examples:
            return None
        shares = (self.final_accuracy, self.reference_accuracy)
        return math.sqrt(sum(share * (1 - share) for share in shares) / self.test_examples)

    @property
    def keeps_up(self) -> bool | None:
        """Whether it is at most the margin below the reference; None if one run can't tell.

        It can't where the gap's interval of two standard errors reaches to both sides of the
        margin. `benchmarks.simulate` tells, over several seeds.
        """
        gap, error = self.gap, self.gap_error
        if gap is None or error is None or abs(gap + ACCURACY_MARGIN) < 2 * error:
            return None
        return gap > -ACCURACY_MARGIN

"""What the zoo has, and how each model is best trained."""

from dataclasses import dataclass, replace
from typing import Final

from qflare.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Entry:
    """One model: what it is for, the data set that it is tried on, and its schedule."""

    name: str
    about: str
    dataset: str
    schedule: Schedule  # its rounds are as many as are worth it

    def schedule_for(self, rounds: int) -> Schedule:
        """The same for another number of rounds."""
        return replace(self.schedule, rounds=rounds)


def _schedule(
    rounds: int, local_epochs: int, learning_rate: float, final: float, server_momentum: float
) -> Schedule:
    return Schedule(
        rounds=rounds,
        local_epochs=local_epochs,
        learning_rate=learning_rate,
        learning_rate_final_fraction=final,
        server_momentum=server_momentum,
        server_learning_rate=1.0,
    )


# Chosen on validation parts by benchmarks/zoo, which also holds them against central training.
ENTRIES: Final[dict[str, Entry]] = {
    entry.name: entry
    for entry in (
        Entry(
            "watch_cnn",
            "a 1-D CNN that tells seven exercises apart by a smartwatch's motion",
            "watch",
            _schedule(20, 3, 0.05, 0.03, 0.6),
        ),
        Entry(
            "watch_gru",
            "a recurrent network for the same, on averages of four samples",
            "watch",
            _schedule(60, 3, 0.15, 0.03, 0.6),
        ),
        Entry(
            "fashion_cnn",
            "a CNN that tells ten kinds of clothes apart in small pictures",
            "fashion",
            _schedule(40, 1, 0.03, 0.03, 0.6),
        ),
        Entry(
            "fashion_transfer",
            "a linear head on a frozen backbone that knows half of these clothes",
            "fashion",
            _schedule(30, 1, 0.02, 0.03, 0.6),
        ),
        Entry(
            "shuttle_autoencoder",
            "an autoencoder of nine sensors, whose error marks anomalies",
            "shuttle",
            _schedule(20, 1, 0.03, 0.03, 0.6),
        ),
    )
}

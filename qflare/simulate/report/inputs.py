"""What the processes of a simulation left behind, as typed values.

The objects come from our own commands, but a run may have been killed at any point and a device
may report anything: whatever is missing or senseless becomes None, zero or empty, never an error.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

Json = Mapping[str, Any]


def number(source: Json, key: str) -> float | None:
    """The finite number at `key`, or None."""
    value = source.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def count(source: Json, key: str) -> int:
    """The whole number at `key`, never negative; 0 if there is none."""
    return max(0, int(number(source, key) or 0))


def text(source: Json, key: str) -> str:
    """The string at `key`, at most 300 characters of it; empty if there is none."""
    value = source.get(key)
    return value[:300] if isinstance(value, str) else ""


def table(source: Json, key: str) -> dict[str, Any]:
    """The object at `key`; empty if there is none."""
    value = source.get(key)
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


def numbers(source: Json, key: str) -> dict[str, float]:
    """The object at `key`, without anything that is no finite number of 0 or more."""
    values = table(source, key)
    found = {name: number(values, name) for name in values}
    return {name: value for name, value in found.items() if value is not None and value >= 0}


def sequence(source: Json, key: str) -> list[Any]:
    """The array at `key`; empty if there is none."""
    value = source.get(key)
    return list(value) if isinstance(value, list | tuple) else []


@dataclass(frozen=True)
class DeviceRecord:
    """One device's telemetry of one round; `stages` in seconds, evaluation on its test part."""

    device: str
    examples: int
    correct: int
    loss_sum: float | None
    stages: Mapping[str, float]
    counters: Mapping[str, float]

    @classmethod
    def read(cls, device: str, source: Json) -> Self:
        examples = count(source, "examples")
        return cls(
            device=device[:64],
            examples=examples,
            correct=min(count(source, "correct"), examples),
            loss_sum=number(source, "loss_sum"),
            stages=numbers(source, "stages"),
            counters=numbers(source, "counters"),
        )

    @property
    def training(self) -> tuple[float, float] | None:
        """When this device trained, in Unix seconds."""
        began = self.counters.get("train_began_ms")
        ended = self.counters.get("train_ended_ms")
        if began is None or ended is None or ended < began:
            return None
        return began / 1000, ended / 1000


@dataclass(frozen=True)
class RoundRecord:
    """One round as the coordinator recorded it; times in Unix seconds."""

    number: int
    step: int
    status: str
    opening_at: float | None
    published_at: float | None
    invited: int
    accepted: int
    admitted: int
    refused: Mapping[str, int]
    update_bytes: tuple[int, ...]
    enclave: Mapping[str, float]  # seconds by name of the enclave's task
    model: str
    receipt: str
    devices: tuple[DeviceRecord, ...]

    @classmethod
    def read(cls, source: Json) -> Self:
        times = {task: number(source, f"{task}_s") for task in ("open", "admit", "release")}
        sizes = (number({"n": size}, "n") for size in sequence(source, "update_bytes"))
        telemetry = table(source, "telemetry")
        return cls(
            number=count(source, "number"),
            step=count(source, "step"),
            status=text(source, "status"),
            opening_at=number(source, "opening_at"),
            published_at=number(source, "published_at"),
            invited=count(source, "invited"),
            accepted=count(source, "accepted"),
            admitted=count(source, "admitted"),
            refused={k: int(n) for k, n in sorted(numbers(source, "refused").items()) if n >= 1},
            update_bytes=tuple(int(size) for size in sizes if size is not None and size > 0),
            enclave={task: s for task, s in times.items() if s is not None and s >= 0},
            model=text(source, "model"),
            receipt=text(source, "receipt"),
            devices=tuple(
                DeviceRecord.read(name, entry)
                for name, entry in sorted(telemetry.items())
                if isinstance(entry, Mapping)
            ),
        )

    @property
    def released(self) -> bool:
        return self.status == "released"


@dataclass(frozen=True)
class ScoreRecord:
    """How well a model tells anomalies: area under ROC, and recall at 1 % false positives."""

    auc: float | None
    recall: float | None

    @classmethod
    def read(cls, source: Json) -> Self | None:
        """The object at `score`, if there is one."""
        found = table(source, "score")
        return cls(number(found, "auc"), number(found, "recall")) if found else None


@dataclass(frozen=True)
class ReferenceRecord:
    """The same schedule in plain float arithmetic, in one process."""

    accuracy_by_round: tuple[float, ...]
    loss_by_round: tuple[float, ...]
    final_accuracy: float | None
    seconds: float | None
    score: ScoreRecord | None

    @classmethod
    def read(cls, source: Json | None) -> Self:
        source = source or {}
        accuracy = _series(source, "accuracy_by_round")
        final = number(source, "final_accuracy")
        if final is None and accuracy:
            final = accuracy[-1]
        loss = _series(source, "loss_by_round")
        return cls(accuracy, loss, final, number(source, "seconds"), ScoreRecord.read(source))

    @property
    def final_loss(self) -> float | None:
        return self.loss_by_round[-1] if self.loss_by_round else None


def _series(source: Json, key: str) -> tuple[float, ...]:
    values = (number({"n": value}, "n") for value in sequence(source, key))
    return tuple(value for value in values if value is not None)

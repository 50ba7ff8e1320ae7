"""What a schedule may say, and what it is when nothing is said."""

from dataclasses import fields, replace
from typing import Any

import pytest

from coordinator.config import ScheduleSection
from qflare.faults import PeerFault, Reason
from qflare.schedule import Schedule

PLAIN = Schedule(20, 3, 0.05, 0.03, 0.6, 1.0)


def test_neither_proximal_nor_private_unless_asked() -> None:
    assert (PLAIN.proximal_mu, PLAIN.example_clip, PLAIN.noise_multiplier) == (0.0, 0.0, 0.0)
    assert Schedule.parse(PLAIN.to_bytes()) == PLAIN


@pytest.mark.parametrize(
    "changes",
    [
        {"proximal_mu": 100.0},
        {"example_clip": 2.0**-16},
        {"example_clip": 1024.0},
        {"example_clip": 1.0, "noise_multiplier": 100.0},
    ],
)
def test_as_far_as_it_goes(changes: dict[str, Any]) -> None:
    made = replace(PLAIN, **changes)
    assert Schedule.parse(made.to_bytes()) == made


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"proximal_mu": -0.1}, "proximal_mu"),
        ({"proximal_mu": 100.1}, "proximal_mu"),
        ({"proximal_mu": float("nan")}, "proximal_mu"),
        ({"example_clip": 2.0**-17}, "example_clip"),
        ({"example_clip": -1.0}, "example_clip"),
        ({"example_clip": 1024.5}, "example_clip"),
        ({"example_clip": float("nan")}, "example_clip"),
        ({"example_clip": 1.0, "noise_multiplier": 100.5}, "noise_multiplier"),
        ({"example_clip": 1.0, "noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": 1.0}, "without an example_clip"),
    ],
)
def test_no_further(changes: dict[str, Any], detail: str) -> None:
    with pytest.raises(PeerFault, match=detail) as refused:
        replace(PLAIN, **changes)
    assert refused.value.reason is Reason.BAD_VALUE


def test_the_configuration_knows_every_field() -> None:
    """A field that the file can't say would be one that no run could use."""
    assert list(ScheduleSection.__struct_fields__) == [f.name for f in fields(Schedule)]

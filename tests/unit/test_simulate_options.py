"""What a person asks for: refused before anything is started or removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qflare.faults import LocalFault
from qflare.simulate.options import Options, bounds, policy


@pytest.mark.parametrize(
    "wrong",
    [
        {"devices": 0},
        {"rounds": 0},
        {"cohort": 21},
        {"seed": -1},
        {"workers": 65},
        {"deadline_s": 0},
        {"suite": "rot13"},
        {"codec": "zip"},
        {"model": "nonesuch"},
        {"dataset": "nonesuch"},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LocalFault):
        Options(**wrong)  # type: ignore[arg-type]


def test_the_policy_is_within_the_owners_bounds() -> None:
    for cohort in (0, 1, 7):
        made = policy(Options(cohort=cohort))
        bounds(made).verify(made)
        assert made.min_cohort >= (cohort or 20) / 2


@pytest.mark.parametrize("redirect", ["closed", "ascii"])
def test_help_survives_odd_output(redirect: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "qflare.cli", "--help"]
    if redirect == "closed":
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command], env=environment, capture_output=True
        )
    else:
        done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr

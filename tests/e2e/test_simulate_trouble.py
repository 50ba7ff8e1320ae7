"""`qflare simulate` with a fleet in which nobody can train."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("e2e")]


def test_a_fleet_that_cannot_train_ends_with_the_reason(tmp_path: Path) -> None:
    x = np.full((8, 128, 6), 1e30, np.float32)  # finite, and yet every loss diverges
    x[::2] *= -1
    y = np.arange(8, dtype=np.int32) % 7
    (tmp_path / "own").mkdir()
    for name in ("a", "b", "c"):
        np.savez(tmp_path / "own" / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    command = [sys.executable, "-m", "qflare", "simulate", "--dataset", str(tmp_path / "own")]
    command += ["--rounds", "500", "--deadline", "10", "--workdir", str(tmp_path / "run")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "no device could train in round 1; " in done.stderr
    assert "FAILED: no device could train in round " in done.stderr
    assert "training diverged" in json.loads(done.stdout)["verdict"][0]

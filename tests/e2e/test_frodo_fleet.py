"""A whole fleet with suite frodo640aes-mldsa44: real processes, a real broker, a real liboqs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qflare.crypto.suites import FRODO640AES_MLDSA44 as SUITE
from tests.oqs_kit import needs_liboqs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("e2e"),
    needs_liboqs,
]


def simulate(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (home / "t").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "qflare", "simulate", "--suite", SUITE.name, *arguments]
    return subprocess.run(
        [*command, "--devices", "3", "--rounds", "2", "--workdir", str(home / "run")],
        env={**os.environ, "TMPDIR": str(home / "t")},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_fleet_trains_with_the_conservative_suite(tmp_path: Path) -> None:
    ended = simulate(tmp_path, "--json", "--keep", "--seed", "3")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)  # and nothing but that, from any import
    assert report["suite"] == SUITE.name
    assert report["rounds"] == 2
    # Every update is as much longer as the suite says, so it was sealed and signed with it.
    fixed = SUITE.seal_overhead + SUITE.signature_length
    assert fixed < report["update_bytes_median"] < fixed + 8192
    owner_keys = list((tmp_path / "run").rglob("owner.key"))
    assert len(owner_keys) >= 5
    assert {path.stat().st_size for path in owner_keys} == {SUITE.verify_key_length}


def test_without_liboqs_it_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = simulate(tmp_path)
    if ended.returncode == 0:
        pytest.skip("the system has a liboqs of its own")
    assert "--suite: liboqs can't be used" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()

"""What a simulation learns of devices that can't train, from the logs of the fleet's processes."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.simulate.failures import Failures, trouble


def line(device: str, round_: int, reason: str, event: str = "training failed") -> str:
    said = {"level": "error", "event": event, "device": device, "round": round_, "reason": reason}
    return json.dumps(said) + "\n"


def test_each_rounds_failures_are_told_with_their_reasons(tmp_path: Path) -> None:
    failures = Failures(tmp_path)
    assert failures.of(1) == {}  # no log yet
    first, second = tmp_path / "fleet-1.log", tmp_path / "fleet-2.log"
    first.write_text(line("a", 1, "no data") + line("c", 1, "done", "update sent"))
    second.write_text(line("b", 1, "no memory") + line("d", 1, "half a line")[:-20])
    assert failures.of(1) == {"a": "no data", "b": "no memory"}
    with second.open("a") as log:
        log.write(line("d", 1, "half a line")[-20:])
    assert failures.of(1) == {"a": "no data", "b": "no memory", "d": "half a line"}
    with first.open("a") as log:
        log.write(line("a", 2, "still none"))
    assert failures.of(2) == {"a": "still none"}
    assert failures.of(3) == {}
    (tmp_path / "coordinator.log").write_text(line("z", 3, "not a device's log"))
    assert failures.of(3) == {}


def test_a_line_without_end_is_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "fleet-1.log"
    log.write_text("x" * 3_000_000 + "\n" + line("a", 1, "no data"))
    failures = Failures(tmp_path)
    for _ in range(4):
        failures.of(1)
    assert failures.of(1) == {"a": "no data"}


@given(st.binary(max_size=300))
def test_garbage_in_a_log_is_no_failure(garbage: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "fleet-1.log"
        log.write_bytes(b'{"event":"training failed","round":' + garbage + b"\n")
        Failures(Path(folder)).of(1)


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        ({}, ""),
        ({"b": "no data"}, "b could not train in round 4: no data"),
        ({"b": "no data", "a": "x"}, "no device could train in round 4; b: no data"),
    ],
)
def test_trouble_in_words(failed: dict[str, str], words: str) -> None:
    assert trouble(failed, 4, 2) == words

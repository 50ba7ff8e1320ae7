"""Which devices could not train. The coordinator isn't told; the fleet's processes log it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

_READ_MAX: Final = 1024 * 1024  # bytes of a log that are read at a time
_REASON_MAX: Final = 500  # characters


class Failures:
    """The failures of the newest round, as the logs in a folder tell them."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._read: dict[Path, int] = {}
        self._round = 0
        self._reasons: dict[str, str] = {}

    def of(self, round_: int) -> Mapping[str, str]:
        """Devices that failed in this round and why, the first of them first."""
        for log in sorted(self._logs.glob("fleet-*.log")):
            with suppress(OSError):
                for line in self._new_lines(log):
                    self._note(line)
        return dict(self._reasons) if round_ == self._round else {}

    def _new_lines(self, log: Path) -> list[bytes]:
        start = self._read.get(log, 0)
        with log.open("rb") as file:
            file.seek(start)
            new = file.read(_READ_MAX)
        whole = new.rfind(b"\n") + 1  # the rest is being written
        self._read[log] = start + (whole or (len(new) if len(new) == _READ_MAX else 0))
        return new[:whole].splitlines()

    def _note(self, line: bytes) -> None:
        if b"training failed" not in line:
            return
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(said, dict) or said.get("event") != "training failed":
            return
        device, round_ = str(said.get("device", ""))[:64], said.get("round")
        if not isinstance(round_, int) or round_ < self._round:
            return
        if round_ > self._round:
            self._round, self._reasons = round_, {}
        self._reasons[device] = str(said.get("reason", ""))[:_REASON_MAX]


def trouble(failed: Mapping[str, str], round_: int, invited: int) -> str:
    """What to say of a round's failures; nothing if there are none."""
    for device, reason in failed.items():
        if len(failed) >= invited:
            return f"no device could train in round {round_}; {device}: {reason}"
        return f"{device} could not train in round {round_}: {reason}"
    return ""

"""What a device's report says: gates, board, disk, memory, updates. I/O, reads only; no numpy."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edge_runtime import budget
from edge_runtime.gates.files import Unreadable, text
from edge_runtime.gates.judging import Verdict
from edge_runtime.gates.readings import Readings
from edge_runtime.storage.health import storage_health
from edge_runtime.upgrade.places import OPT
from edge_runtime.upgrade.status import UpdateStatus, update_status
from qflare import __version__
from qflare.faults import PeerFault
from qflare.host.boards import detect, facts
from qflare.host.redact import clean_text
from qflare.report import FIGURES_MAX, GATES_MAX, NOTICES_MAX, WORDS_MAX, GateSays, Health

EVERY_S: Final = 300.0  # between two observations, unless a gate moves
_ROOT: Final = Path("/")


def observe(
    verdict: Verdict,
    readings: Readings,
    state_dir: Path,
    training_mb: int,
    environ: Mapping[str, str],
    opt: Path = OPT,
    root: Path = _ROOT,
) -> Health:
    """Look once; what can't be seen is left out. Takes some milliseconds; never raises."""
    board = detect(root)
    notices = [budget.notice(environ, root)]
    figures = {
        "training_limit_mb": training_mb,
        "uptime_s": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
        **_readings(readings),
        **_written(root),
    }
    try:
        storage = storage_health(state_dir, root)
        figures |= dict(storage.counters())
        notices += storage.warnings
    except OSError as error:
        notices.append(f"{state_dir}: {error.strerror}")
    update = update_status(opt, state_dir)
    figures |= dict(update.counters())
    try:
        return Health(
            version=__version__,
            board="" if board is None else board.name,
            power_mode=_words(facts.power_mode(root) or ""),
            update=_words(_update(update)),
            gates=tuple(
                GateSays(str(line.gate), str(line.standing), _words(line.says))
                for line in verdict.lines[:GATES_MAX]
            ),
            notices=tuple(_words(notice) for notice in notices if notice)[:NOTICES_MAX],
            figures=tuple(sorted(figures.items()))[:FIGURES_MAX],
        )
    except PeerFault:  # a figure beyond all reason
        return Health(version=__version__)


def _words(said: str) -> str:
    return clean_text(said)[:WORDS_MAX]


def _update(status: UpdateStatus) -> str:
    if status.phase:
        return f"under way: {status.phase}"
    if status.staged:
        return f"{status.staged} staged, and not applied yet"
    if status.bad:
        return f"{status.bad[-1].version} failed here: {status.bad[-1].why}"
    return status.last


def _readings(readings: Readings) -> dict[str, int]:
    found: dict[str, int] = {}
    if readings.temperature.value is not None:
        found["celsius"] = round(readings.temperature.value.celsius)
    power = readings.power.value
    if power is not None and power.percent is not None:
        found["battery_percent"] = round(power.percent)
    if readings.memory.value is not None:
        found["memory_mb"] = readings.memory.value.available // 2**20
    if readings.load.value is not None and readings.load.value.cpu is not None:
        found["load_percent"] = round(readings.load.value.cpu)
    if readings.network.value is not None and readings.network.value.kbit is not None:
        found["network_kbit"] = round(readings.network.value.kbit)
    return found


def _written(root: Path) -> dict[str, int]:
    """What this process had the disk write since it started (proc(5): write_bytes)."""
    try:
        said = text(root / "proc/self/io") or ""
    except Unreadable:
        return {}
    for line in said.splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes" and value.isdecimal():
            return {"written_kb": int(value) // 1000}
    return {}

"""`qflare-collect`: reads a sensor for years and keeps its samples in the ring.

A process of its own, beside the daemon: a serial driver that hangs in the kernel, a plug-in that
crashes and access to devices stay out of the process that holds the keys, and samples go on being
collected while that one is restarted or updated. It needs no numpy.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

# structlog imports rich wherever it is installed, for tracebacks that we never print.
_HIDDEN = "rich" not in sys.modules
if _HIDDEN:
    sys.modules["rich"] = None  # type: ignore[assignment]

from edge_runtime.sources.clocks import clock  # noqa: E402
from edge_runtime.sources.collecting import head_of  # noqa: E402
from edge_runtime.sources.drivers import Driver, make_driver  # noqa: E402
from edge_runtime.sources.inbox import Inbox  # noqa: E402
from edge_runtime.sources.record import stored_names  # noqa: E402
from edge_runtime.sources.ring import Ring, cipher_of  # noqa: E402
from edge_runtime.sources.segment import Rows  # noqa: E402
from edge_runtime.sources.settings import DataSection  # noqa: E402
from qflare import __version__  # noqa: E402
from qflare.faults import LocalFault  # noqa: E402
from qflare.host import logs  # noqa: E402
from qflare.host.config import ConfigFault  # noqa: E402
from qflare.host.files import write_atomic  # noqa: E402
from qflare.host.memory import one_heap  # noqa: E402
from qflare.host.notify import notify, watchdog_seconds  # noqa: E402

if _HIDDEN:
    del sys.modules["rich"]

BATCH_MAX: Final = 1024 * 1024  # bytes of samples that wait for a flush
HELD_MAX: Final = 8 * BATCH_MAX  # while the disk refuses them; then they are dropped
STATUS_S: Final = 10.0
LOSSES_S: Final = 600.0  # how often it is said what was lost since; once at the end
# Of a report: what came and isn't kept.
_LOSSES: Final[tuple[str, ...]] = (
    *("dropped", "lost", "cut_bytes"),
    *("bad_frames", "overlong_frames", "unreadable", "oversize"),
)

_EXAMPLES = """\
examples:
  qflare-collect --config /etc/qflare/edge.toml            collect until SIGTERM
  qflare-collect --config /etc/qflare/edge.toml --try 10   read for 10 s and say what came

exit status: 0 ended as asked, or data.kind wants no collecting; 1 failed (a new start may help);
78 the configuration is wrong
"""


class Collector:
    """Takes samples out of the inbox, dates them, and flushes them to the ring."""

    def __init__(self, settings: DataSection, driver: Driver, key: bytes | None = None) -> None:
        """`key` seals the samples. Raise LocalFault or OSError if the ring can't be opened."""
        ring = settings.ring
        self._flush_s, self._clock, self.driver = ring.flush_s, clock(settings), driver
        self.inbox = Inbox(ring.queue)
        self._ring = Ring(settings.path, head_of(settings), ring.quota_mb * 1024**2, cipher_of(key))
        self._rows = Rows()
        self._due: float | None = None
        self._gap = True  # nobody knows what was between the last process and this one
        self._counts = {"flushes": 0, "flush_failures": 0, "lost": 0}
        self._disk = ""
        self._log = logs.get_logger("collector")

    def turn(self, within_s: float = 1.0) -> None:
        """Take what came, waiting for it if need be, and flush if it is time."""
        now = time.monotonic()
        if self._due is not None:
            within_s = min(within_s, max(0.0, self._due - now))
        self._take(within_s)
        if len(self._rows) and self._due is None:
            self._due = now + self._flush_s
        if self._due is not None and (
            time.monotonic() >= self._due or self._rows.held_bytes > BATCH_MAX
        ):
            self.flush()

    def _take(self, within_s: float) -> bool:
        """Date what waits, after `within_s`; whether there was anything."""
        waiting = self.inbox.take(within_s)
        for arrived in waiting:
            record = arrived.record
            moment = self._clock.at(record.time, arrived.mono, arrived.wall)
            broken = record.broken or moment.broken or self._gap
            self._rows.add(moment.us, record.label, broken, record.values)
            self._gap = False
        return bool(waiting)

    def flush(self) -> None:
        """Make durable what waits; what the disk refuses waits longer, up to HELD_MAX."""
        try:
            self._ring.append(self._rows)
        except OSError as error:
            self._counts["flush_failures"] += 1
            if not self._disk:
                self._log.error("flush_failed", error=str(error))
            self._disk = f"the disk refuses samples: {error.strerror}; make room"
            self._due = time.monotonic() + self._flush_s
            if self._rows.held_bytes <= HELD_MAX:
                return
            self._counts["lost"] += len(self._rows)
            self._gap = True
        else:
            self._counts["flushes"] += 1
            self._disk = ""
            with suppress(OSError):  # it is tried again at the next flush
                self._ring.seal_older()
        self._rows, self._due = Rows(), None

    def close(self) -> None:
        """Flush and let go of the ring."""
        while self._take(0.0):
            pass
        self.flush()
        self._ring.close()

    def report(self) -> dict[str, Any]:
        """How it is, for a person's eyes and for `qflare doctor`."""
        status = self.driver.status
        return {
            "ok": status.ok and not self._disk,
            "state": self._disk or status.state,
            "rows": self._ring.rows,
            "taken": self.inbox.taken,
            "dropped": self.inbox.dropped,
            "cut_bytes": self._ring.cut,
            "removed_files": self._ring.removed,
            **self._counts,
            **status.counts,
        }


class Losses:
    """Says what came and wasn't kept, if there is more of it: a person may have to look at it."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}
        self._due = time.monotonic() + LOSSES_S
        self._log = logs.get_logger("collector")

    def look(self, report: dict[str, Any], now: float | None = None) -> None:
        """One line every LOSSES_S at most; without `now` at once."""
        if now is not None and now < self._due:
            return
        self._due = time.monotonic() + LOSSES_S
        counts = {name: int(report[name]) for name in _LOSSES if name in report}
        more = {name: n - self._told.get(name, 0) for name, n in counts.items()}
        self._told = counts
        if any(more.values()):
            self._log.warning("not kept", **{name: n for name, n in more.items() if n})


class _Thread(threading.Thread):
    """The driver's; it is a daemon, for a read that hangs in the kernel must not stop our end."""

    def __init__(self, driver: Driver, inbox: Inbox, stop: threading.Event) -> None:
        super().__init__(name="driver", daemon=True)
        self._driver, self._inbox, self._stop_event = driver, inbox, stop
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            self._driver.run(self._inbox, self._stop_event)
        except BaseException as error:
            self.fault = error


def collect(
    settings: DataSection,
    stop: threading.Event,
    status: Path | None = None,
    key: bytes | None = None,
) -> None:
    """Collect until `stop` is set; raise LocalFault or OSError for what no patience heals.

    `status`, a file on a memory file system, gets the report as JSON every ten seconds.
    """
    collector = Collector(settings, make_driver(settings), key)
    log = logs.get_logger("collector")
    thread = _Thread(collector.driver, collector.inbox, stop)
    thread.start()
    notify("READY=1")
    turn_s = min(watchdog_seconds() or 1.0, 1.0)
    told, said, losses = "", -STATUS_S, Losses()
    try:
        while not stop.is_set():
            collector.turn(turn_s)
            if thread.fault is not None:
                raise thread.fault
            report = collector.report()
            if report["state"] != told:
                told = report["state"]
                (log.info if report["ok"] else log.warning)("state", state=told)
            notify("WATCHDOG=1", f"STATUS={told}; {report['rows']} samples")
            now = time.monotonic()
            losses.look(report, now)
            if now - said >= STATUS_S:
                said = now
                _write_status(status, report)
    finally:
        notify("STOPPING=1")
        stop.set()
        thread.join(2.0)
        collector.close()
        report = collector.report()
        losses.look(report)
        _write_status(status, report)


def _write_status(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        with suppress(OSError):
            write_atomic(path, json.dumps(report, indent=1).encode() + b"\n", 0o644)


def try_out(settings: DataSection, seconds: float) -> dict[str, Any]:
    """Read for a while and keep nothing: what came, and the last sample by name."""
    driver, inbox, stop = make_driver(settings), Inbox(settings.ring.queue), threading.Event()
    thread = _Thread(driver, inbox, stop)
    thread.start()
    until, last = time.monotonic() + seconds, None
    while (left := until - time.monotonic()) > 0 and thread.fault is None:
        for arrived in inbox.take(min(left, 0.2)):
            last = arrived.record
    stop.set()
    thread.join(2.0)
    if thread.fault is not None:
        raise thread.fault
    found: dict[str, Any] = {"ok": last is not None, "state": driver.status.state}
    found |= {"taken": inbox.taken, "dropped": inbox.dropped, **driver.status.counts}
    if last is not None:
        found["last"] = dict(zip(stored_names(settings), last.values, strict=True))
        found["label"] = last.label
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Collect for one device; return the exit status."""
    one_heap()
    parser = argparse.ArgumentParser(
        prog="qflare-collect",
        description="Read a device's sensor and keep its samples for training.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="edge.toml")
    parser.add_argument("--try", dest="seconds", type=float, metavar="S", help="read for S seconds")
    parser.add_argument("--version", action="version", version=f"qflare {__version__}")
    arguments = parser.parse_args(argv)
    try:
        from edge_runtime.config import load
        from edge_runtime.storage.opening import SAMPLES, purpose_key

        config = load(arguments.config, os.environ).value
        log = config.log
        logs.configure("collect", log.format, None, getattr(logging, log.level.upper()))
        if arguments.seconds is not None:
            found = try_out(config.data, min(max(arguments.seconds, 0.1), 3600.0))
            sys.stdout.write(json.dumps(found, indent=1) + "\n")
            return 0 if found["ok"] else 1
        if not config.data.collected:
            # An image may have the unit on for boards that don't need it.
            notify("READY=1", "STATUS=nothing is to be collected")
            logs.get_logger("collector").info("nothing to collect", kind=config.data.kind)
            return 0
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        status = _status_file(os.environ.get("RUNTIME_DIRECTORY"))
        state = config.device.state_dir
        key = purpose_key(state, config.storage, os.environ, SAMPLES, create=True)
        collect(config.data, stop, status, key)
    except LocalFault as fault:
        sys.stderr.write(f"qflare-collect: {fault}\n")
        return ConfigFault.exit_code if isinstance(fault, ConfigFault) else 1
    except OSError as error:
        sys.stderr.write(f"qflare-collect: {error}\n")
        return 1
    return 0


def _status_file(runtime: str | None) -> Path | None:
    return Path(runtime.split(":")[0]) / "collect.json" if runtime else None


if __name__ == "__main__":
    sys.exit(main())

"""Structured logs: one line per event, for a journal, a file or a terminal.

No secret and no content of an update ever gets into a log: every value passes `redact.clean`
on its way, and the last word is the type, so that a careless `log.info("got", data=payload)`
writes a size and not the bytes.
"""

import errno
import json
import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import structlog

from qflare.host import redact

Format = Literal["auto", "json", "pretty"]

# sd-daemon(3): a line that starts with <N> is filed under that priority.
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}


_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def configure(
    component: str,
    fmt: Format = "auto",
    file: Path | None = None,
    level: int = logging.INFO,
    environ: Mapping[str, str] = os.environ,
    stderr: TextIO | None = None,
) -> None:
    """Set up logging for this process; call it once, early.

    "auto" is pretty on a terminal and JSON otherwise. With `file`, lines are appended there (mode
    0600) instead of standard error. Under systemd (JOURNAL_STREAM) JSON lines carry a priority.
    """
    stream = _open(file) if file else (stderr or sys.stderr)
    if fmt == "auto":
        fmt = "pretty" if file is None and stream.isatty() else "json"
    journal = file is None and "JOURNAL_STREAM" in environ
    render: structlog.typing.Processor
    if fmt == "pretty":
        render = structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False)
    else:
        render = _render_json_for_journal if journal else _render_json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _format_exception,
            _clean_event,
            _naming(component),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Patient(stream))),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard module; their lines take the same way out.
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(max(level, logging.WARNING))


def get_logger(name: str) -> Any:
    """A logger whose events carry `logger=name`; use `log.info("event", field=value)`."""
    # Initial values, not bind(): a logger made at import must still obey a later configure().
    return structlog.get_logger(part=name)


class _Patient:
    """A stream where a line that can't be written is lost: a full disk ends nobody's work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _open(path: Path) -> TextIO:
    """The file; standard error, if the disk refuses it now."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        sys.stderr.write(f"{path}: {error.strerror}; log lines go to standard error\n")
        return sys.stderr
    return os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def _format_exception(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Turn exc_info into one line of where and what; never the local variables."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error"] = f"{type(error).__name__}: {error}"
        frames = []
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        event["trace"] = frames[-12:]
    event.pop("stack_info", None)
    return event


def _clean_event(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {redact.clean_text(str(key)): redact.clean(value, key) for key, value in event.items()}


def _naming(component: str) -> structlog.typing.Processor:
    def add(
        _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["component"] = component
        if "part" in event:  # structlog keeps the name `logger` to itself
            event["logger"] = event.pop("part")
        return event

    return add


def _render_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "component", "event")}
    return json.dumps(first | dict(event), ensure_ascii=False, separators=(",", ":"))


def _render_json_for_journal(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    priority = _PRIORITY.get(str(event["level"]), 6)
    return f"<{priority}>{_render_json(logger, method, event)}"


class _Forward(logging.Handler):
    """Hands the records of the standard module to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = get_logger(record.name)
            log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)
        except Exception:
            self.handleError(record)

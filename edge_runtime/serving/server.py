"""The process that answers applications: python -m edge_runtime.serving --config edge.toml"""

import asyncio
import time
from collections import Counter, deque
from http import HTTPStatus
from typing import Any, Final

from edge_runtime.serving.api import (
    Answer,
    Refused,
    error_answer,
    infer_answer,
    json_answer,
    metadata,
    parse_rows,
    percentile,
    route,
)
from edge_runtime.serving.batcher import Batcher
from edge_runtime.serving.connection import Budget, Connection, Limits, Request, part
from edge_runtime.serving.models import Models
from edge_runtime.serving.settings import Serving
from edge_runtime.slots import ACTIVE, read_state
from qflare.faults import LocalFault

LOOK_S: Final = 1.0  # how often the stable path is followed while nobody asks
LATENCIES: Final = 1024  # of the last requests, for the percentiles
BODIES: Final = 4  # as many of the largest requests may be here at a time
STOP_S: Final = 3.0  # for the answers that are being made when the process is to end


class Server:
    """Connections, the model that answers, and the queue between them."""

    def __init__(self, serving: Serving) -> None:
        section = serving.section
        self._slots = serving.slots
        self._section = section
        self.models = Models(serving.slots / ACTIVE, section.threads)
        self._batcher = Batcher(section.linger_ms / 1000)
        self._limits = Limits(1024 * section.request_kb, section.timeout_s)
        self._budget = Budget(BODIES * self._limits.body)
        self._open: dict[Connection, asyncio.Future[None]] = {}  # done when it ended
        self._parting = 0  # connections that are being turned away
        self._counters: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self.asked_at = time.monotonic()

    @property
    def connections(self) -> int:
        return len(self._open)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection that was made; the callback of asyncio's servers."""
        self.asked_at = time.monotonic()
        if len(self._open) >= self._section.connections:
            idle = next((c for c in self._open if c.idle), None)
            if idle is None:
                await self._turn_away(reader, writer)
                return
            idle.close()  # the one that has been open for longest
        connection = Connection(reader, writer, self._handle, self._limits, self._budget)
        self._open[connection] = ended = asyncio.get_running_loop().create_future()
        try:
            await connection.serve()
        finally:
            del self._open[connection]
            ended.set_result(None)

    async def _turn_away(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._counters["connections_refused"] += 1
        if self._parting >= self._section.connections:  # a flood is not even told why
            writer.transport.abort()
            return
        self._parting += 1
        try:
            writer.write(_TOO_MANY)
            await part(reader, writer)
        except (OSError, TimeoutError):
            pass
        finally:
            self._parting -= 1

    async def stop(self) -> None:
        """Give the answers that are being made, at most for STOP_S, and let go of everybody."""
        for connection in list(self._open):
            connection.close()
        if self._open:
            await asyncio.wait(self._open.values(), timeout=STOP_S)
        self._batcher.close()
        for connection in list(self._open):
            connection.abort()
        if self._open:
            await asyncio.wait(self._open.values(), timeout=STOP_S)
        await self.models.close()

    async def _handle(self, request: Request) -> Answer:
        self.asked_at = began = time.monotonic()
        try:
            path = route(request.method, request.target)
            if path == "/v1/status":
                return json_answer(self.status())
            try:
                engine = await self.models.current()
            except LocalFault as fault:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(fault)) from None
            if path == "/v1/metadata":
                return json_answer(metadata(engine))
            rows = parse_rows(request.kind, request.body, engine)
            try:
                outputs = await self._batcher.infer(engine, rows)
            except (RuntimeError, ValueError, MemoryError) as error:
                text = f"the model can't be run: {type(error).__name__}: {error}"[:500]
                raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, text) from None
        except Refused as fault:
            self._counters[f"answered_{int(fault.status)}"] += 1
            return error_answer(fault)
        self._counters["requests"] += 1
        answer = infer_answer(request.accept, request.kind, outputs, engine)
        self._latencies.append(time.monotonic() - began)
        return answer

    def status(self) -> dict[str, Any]:
        """Which model answers, since when it is active, and how it is used."""
        engine, state = self.models.engine, read_state(self._slots)
        told: dict[str, Any] = {"model": None, "trouble": self.models.trouble}
        if engine is not None:
            slot = engine.slot.manifest
            known = state.active == slot.model
            told |= {
                "model": slot.model,
                "name": slot.name,
                "version": slot.version,
                "round": state.round if known else 0,
                "since": state.since if known else 0.0,
                "check": {
                    "examples": slot.examples,
                    "correct": slot.correct,
                    "loss_sum": slot.loss_sum,
                },
            }
        latencies, runs = sorted(self._latencies), self._batcher.runs
        told["use"] = {
            **self._counters,
            "connections": len(self._open),
            "rows": self._batcher.rows,
            "runs": runs,
            "rows_per_run": round(self._batcher.rows / runs, 2) if runs else 0.0,
            "latency_ms": {
                f"p{share}": round(1000 * percentile(latencies, share / 100), 3)
                for share in (50, 99)
            },
        }
        return told


_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-type: application/json\r\ncontent-length: 48\r\n\r\n"
    b'{"error": "too many connections; close unused"}\n'
)

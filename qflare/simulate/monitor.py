"""Watching a run as its dashboard does: retained metrics over MQTT, with a dashboard's rights."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from qflare import topics
from qflare.faults import PeerFault
from qflare.host.link import Link
from qflare.host.link_types import Event, LinkConfig, Message
from qflare.names import FleetId

_METRIC_MAX = 64 * 1024


class Monitor:
    """The newest value of each of the coordinator's metrics."""

    def __init__(self, fleet: FleetId, link: LinkConfig, on_change: Callable[[], None]) -> None:
        self._metrics: dict[str, Mapping[str, Any]] = {}
        self._on_change = on_change
        self._link = Link(link, subscriptions=topics.dashboard_filters(fleet))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect, and stay connected."""
        self._task = asyncio.create_task(self._link.run(self._on_event))

    async def stop(self) -> None:
        """Disconnect."""
        self._link.close()
        if self._task:
            with suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, 2)

    def metric(self, name: str) -> Mapping[str, Any]:
        """The newest value of a metric; empty before there is one."""
        return self._metrics.get(name, {})

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, Message) or len(event.payload) > _METRIC_MAX:
            return
        try:
            topic = topics.parse(event.topic)
            value = json.loads(event.payload)
        except (PeerFault, ValueError):
            return
        if isinstance(topic, topics.CoordinatorMetric) and isinstance(value, dict):
            self._metrics[topic.name] = value
            self._on_change()

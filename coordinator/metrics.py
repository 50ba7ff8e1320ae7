"""The figures that the coordinator keeps retained on the broker. Pure.

Each is one JSON object on coordinator/metrics/<name>, said at most five times a second, and its
last state always.
"""

import json
from typing import Any

from coordinator.book import Book, Phase
from coordinator.validation import figures
from qflare.effects import Publish
from qflare.topics import CoordinatorMetric, build

INTERVAL_S = 0.2
AWAITED_MAX = 32  # names of devices that owe an update


class Metrics:
    """Says what changed, and no more often than INTERVAL_S."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._said: dict[str, bytes] = {}
        self._next = 0.0

    def forget(self) -> None:
        """Say everything again: the link is new."""
        self._said.clear()
        self._next = 0.0

    def due(self, now: float) -> list[Publish]:
        """What is to be said now."""
        if not self._book.link_up or (now < self._next and self._book.phase is not Phase.DONE):
            return []
        self._next = now + INTERVAL_S
        out = []
        for name, said in (
            ("round", round_figures(self._book, now)),
            ("run", run_figures(self._book)),
            ("enclave", self._book.enclave.figures(now)),
            ("refusals", dict(sorted(self._book.refusals.items()))),
            ("validation", validation_figures(self._book)),
        ):
            payload = json.dumps(said, separators=(",", ":")).encode()
            if self._said.get(name) != payload:
                self._said[name] = payload
                topic = build(CoordinatorMetric(self._book.settings.fleet, name))
                out.append(Publish(topic, payload, retain=True))
        return out


def round_figures(book: Book, now: float) -> dict[str, Any]:
    """The newest round, as it stands."""
    current, online = book.round, len(book.registry.online())
    if current is None:
        return {
            "round": book.last_number,
            "step": book.released + (book.phase is not Phase.DONE),  # the next one
            "phase": book.phase,
            "invited": 0,
            "online": online,
            "transfers": 0,
            "accepted": 0,
            "admitted": 0,
            "refused": {},
            "opened_at": None,
            "closes_at": None,
        }
    offer = current.offer
    cohort = set(offer.cohort) if offer and offer.cohort else book.registry.here(now)
    return {
        "round": current.number,
        "step": offer.claims.step if offer else book.released + 1,
        "phase": book.phase,
        "invited": len(cohort),
        "awaited": sorted(cohort - current.updates.keys())[:AWAITED_MAX] if offer else [],
        "online": online,
        "transfers": len(book.transfers),
        "accepted": len(current.updates),
        "admitted": current.admitted,
        "refused": dict(sorted(current.refused.items())),
        "opened_at": current.opening_at,
        "closes_at": current.closes_at,
    }


def run_figures(book: Book) -> dict[str, Any]:
    """All rounds together; accuracy and loss are pooled over who reported on the newest model."""
    examples = sum(n for n, _, _ in book.reports.values())
    correct = sum(k for _, k, _ in book.reports.values())
    loss = sum(s for _, _, s in book.reports.values())
    return {
        "released": book.released,
        "abandoned": book.abandoned,
        "abandoned_in_a_row": book.last_number
        - (book.last.number if book.last else 0)
        - (book.round is not None),
        "rounds": book.settings.rounds,
        "done": book.phase is Phase.DONE,
        "telemetry": len(book.reports),
        "accuracy": correct / examples if examples else None,
        "loss": loss / examples if examples else None,
        "bytes_up": book.bytes_up,
        "bytes_down": book.bytes_down,
    }


def validation_figures(book: Book) -> dict[str, Any]:
    """The last released round on the devices' validation parts; empty before there is one."""
    last = book.last
    return {"round": last.number, **(figures(last.tallies) or {})} if last else {}

"""A broker in memory: sessions, filters, retained messages, wills, access rules. No threads.

It routes as an MQTT broker does at QoS 1 with clean start off: what comes for a session that is
away waits for it. Everything that passes, in both directions, is handed to `carry`, which decides
when it arrives, how often, and in which shape.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from qflare.effects import Publish
from qflare.names import DeviceId, FleetId
from qflare.topics import matches, rules

Deliver = Callable[[str, bytes, bool], None]
Carry = Callable[[bool, str, str, bytes, Callable[[bytes], None]], None]
QUEUE_MAX = 1000  # messages that wait for one session, as in mosquitto
COORDINATOR = "coordinator"


@dataclass
class Session:
    """One client of the broker."""

    read: tuple[str, ...]
    write: tuple[str, ...]
    deliver: Deliver | None = None  # None: away
    will: Publish | None = None
    queue: deque[tuple[str, bytes, bool]] = field(default_factory=lambda: deque(maxlen=QUEUE_MAX))


class Broker:
    """`carry(upward, who, topic, payload, arrive)` calls `arrive` for each copy that arrives."""

    def __init__(self, fleet: FleetId, carry: Carry) -> None:
        self._rules, self._carry = rules(fleet), carry
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, bytes] = {}
        self.log: list[tuple[str, str, bytes]] = []  # who, topic, payload: all that was routed
        self.denied: Counter[str] = Counter()

    def connect(self, who: str, deliver: Deliver, will: Publish | None = None) -> None:
        """Come (back): retained messages first, then what waited."""
        if who not in self.sessions:
            access = self._rules.coordinator
            if who != COORDINATOR:
                access = self._rules.device.for_device(DeviceId(who))
            self.sessions[who] = Session(access.read, access.write)
        session = self.sessions[who]
        session.deliver, session.will = deliver, will
        for topic, payload in list(self.retained.items()):
            if any(matches(rule, topic) for rule in session.read):
                self._hand(who, topic, payload, True)
        waiting = list(session.queue)
        session.queue.clear()
        for topic, payload, retained in waiting:
            self._hand(who, topic, payload, retained)

    def lose(self, who: str) -> None:
        """The connection broke: the will is said."""
        session = self.sessions[who]
        will, session.deliver, session.will = session.will, None, None
        if will is not None:
            self.route(who, will.topic, will.payload, will.retain)

    def publish(self, who: str, topic: str, payload: bytes, retain: bool = False) -> None:
        """A client publishes."""

        def arrive(data: bytes) -> None:
            if any(matches(rule, topic) for rule in self.sessions[who].write):
                self.route(who, topic, data, retain)
            else:
                self.denied[who] += 1

        self._carry(True, who, topic, payload, arrive)

    def route(self, who: str, topic: str, payload: bytes, retain: bool = False) -> None:
        """To everybody who subscribes to it."""
        self.log.append((who, topic, payload))
        if retain:
            self.retained[topic] = payload
            if not payload:
                del self.retained[topic]
        for name, session in self.sessions.items():
            if any(matches(rule, topic) for rule in session.read):
                self._hand(name, topic, payload, False)

    def _hand(self, who: str, topic: str, payload: bytes, retained: bool) -> None:
        session = self.sessions[who]
        if session.deliver is None:
            session.queue.append((topic, payload, retained))
            return

        def arrive(data: bytes) -> None:
            if session.deliver is None:  # it broke meanwhile: not acknowledged, so it waits
                session.queue.append((topic, data, retained))
            else:
                session.deliver(topic, data, retained)

        self._carry(False, who, topic, payload, arrive)

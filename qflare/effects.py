"""What machines are told and what they ask for, where several rooms mean the same thing."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LinkDown:
    """The connection to the broker is gone."""


@dataclass(frozen=True)
class Received:
    """A message from the broker; untrusted."""

    topic: str
    payload: bytes = field(repr=False)
    retained: bool = False


@dataclass(frozen=True)
class Tick:
    """About a second has passed."""


@dataclass(frozen=True)
class Publish:
    """Publish `payload` to an MQTT topic at QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False

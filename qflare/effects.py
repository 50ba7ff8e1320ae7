"""What a machine asks its shell to do, where several rooms mean the same thing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Publish:
    """Publish `payload` to an MQTT topic at QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False

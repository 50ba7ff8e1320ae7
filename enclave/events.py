"""What the enclave's machine asks its shell to do, in this order and no other."""

from dataclasses import dataclass, field

from qflare.messages import Message


@dataclass(frozen=True)
class Persist:
    """Make this sealed state durable before anything else happens; it replaces the last one."""

    sealed: bytes = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """Send this message to the coordinator."""

    message: Message = field(repr=False)


Effect = Persist | Reply

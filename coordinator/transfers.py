"""Uploads by credit: who may send which chunk, and what is there already. Pure.

A device sends chunks only as granted: at most `window` at a time each, and `credit` in all, which
keeps everything that can be on its way below the broker's queue limit. What was granted and did
not come is granted again after `regrant_s` of silence. Chunks come in any order, twice or never.
"""

from collections import deque
from dataclasses import dataclass, field

from qflare.compression.padding import bucket
from qflare.faults import PeerFault, Reason
from qflare.messages import KIB, UpdateHeader
from qflare.names import DeviceId, Digest
from qflare.tallies import spelled_max
from qflare.transfer import INDICES_MAX, Grant, TransferOffer


@dataclass(frozen=True)
class Limits:
    """How much may be on its way."""

    window: int = 4  # chunks granted to one device and not here yet
    credit: int = 256  # the same for all devices together
    open_max: int = 128  # transfers at a time; the others wait in line
    waiting_max: int = 100_000
    regrant_s: float = 5.0
    give_up_s: float = 60.0  # of silence, after which a transfer makes room for another


@dataclass
class Transfer:
    """One update on its way."""

    device: DeviceId
    offer: TransferOffer
    missing: deque[int]  # not granted yet, in order
    heard: float
    granted: dict[int, float] = field(default_factory=dict)  # index -> when
    have: bytearray = field(default_factory=bytearray)  # a bitmap
    received: int = 0  # chunks

    @property
    def complete(self) -> bool:
        return self.received == self.offer.chunks

    def has(self, index: int) -> bool:
        return bool(self.have[index >> 3] >> (index & 7) & 1)


def begin(device: DeviceId, offer: TransferOffer, now: float) -> Transfer:
    """A transfer of which nothing is here yet."""
    count = offer.chunks
    return Transfer(device, offer, deque(range(count)), now, have=bytearray(-(-count // 8)))


@dataclass(frozen=True)
class Chunk:
    """A chunk that belongs into the spool at `offset`."""

    offset: int
    complete: bool  # it was the last one


class Transfers:
    """All uploads of a round."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[DeviceId, Transfer] = {}
        self._finished: dict[DeviceId, Transfer] = {}  # whole, and being made durable
        self._waiting: dict[DeviceId, TransferOffer] = {}  # a queue: dicts keep their order
        self._used = 0  # credit

    def __len__(self) -> int:
        """Transfers that are going on or waiting for room."""
        return len(self._open) + len(self._finished) + len(self._waiting)

    @property
    def opened(self) -> int:
        """Transfers that are going on."""
        return len(self._open)

    def offer(self, device: DeviceId, offer: TransferOffer, now: float) -> Transfer | None:
        """A device offers an update, maybe again.

        Returns the transfer if it was started by this, None if it goes on already or has to wait.
        Raises PeerFault(DUPLICATE) if another one of this device is going on.
        """
        running = self._open.get(device) or self._finished.get(device)
        if running:
            if running.offer != offer:
                raise PeerFault(Reason.DUPLICATE, "another update of this device is on its way")
            self._forget_grants(running)
            return None
        if len(self._open) >= self.limits.open_max:
            if device not in self._waiting and len(self._waiting) >= self.limits.waiting_max:
                raise PeerFault(Reason.RATE_LIMITED, "too many transfers are waiting")
            self._waiting[device] = offer
            return None
        self._waiting.pop(device, None)
        self._open[device] = begin(device, offer, now)
        return self._open[device]

    def _forget_grants(self, transfer: Transfer) -> None:
        """Whoever offers again has no grant in hand: what was granted may have been lost."""
        lost = sorted(i for i in transfer.granted if not transfer.has(i))
        transfer.missing.extendleft(reversed(lost))
        self._used -= len(transfer.granted)
        transfer.granted.clear()

    def chunk(
        self, device: DeviceId, digest: Digest, index: int, size: int, now: float
    ) -> Chunk | None:
        """A chunk arrived. None for one that is here already.

        Raises PeerFault: WRONG_OFFER for a transfer or chunk that nobody asked for, BAD_VALUE for
        an index that isn't in it, MALFORMED for another size than was offered.
        """
        transfer = self._open.get(device)
        if transfer is None or transfer.offer.transfer != digest:
            done = self._finished.get(device)
            if done and done.offer.transfer == digest:
                return None
            raise PeerFault(Reason.WRONG_OFFER, "a chunk of no transfer that is going on")
        offer = transfer.offer
        if not 0 <= index < offer.chunks:
            raise PeerFault(Reason.BAD_VALUE, f"chunk {index} of {offer.chunks}")
        if transfer.has(index):
            return None
        if index not in transfer.granted:
            raise PeerFault(Reason.WRONG_OFFER, f"chunk {index} was not asked for")
        if size != min(offer.chunk, offer.size - index * offer.chunk):
            raise PeerFault(Reason.MALFORMED, f"chunk {index} has {size} bytes")
        transfer.heard = now
        del transfer.granted[index]
        self._used -= 1
        transfer.have[index >> 3] |= 1 << (index & 7)
        transfer.received += 1
        if transfer.complete:
            del self._open[device]
            self._finished[device] = transfer
        return Chunk(index * offer.chunk, transfer.complete)

    def grants(self, now: float, device: DeviceId | None = None) -> list[tuple[DeviceId, Grant]]:
        """Give out free credit: to `device` first, then to the others in order of arrival."""
        out: list[tuple[DeviceId, Grant]] = []
        first = self._open.get(device) if device else None
        if first:
            self._grant(first, now, out)
        if self._used < self.limits.credit and (first is None or not first.missing):
            for transfer in self._open.values():
                if self._used >= self.limits.credit:
                    break
                self._grant(transfer, now, out)
        return out

    def _grant(self, transfer: Transfer, now: float, out: list[tuple[DeviceId, Grant]]) -> None:
        free = min(
            self.limits.window - len(transfer.granted),
            self.limits.credit - self._used,
            len(transfer.missing),
            INDICES_MAX,
        )
        if free <= 0:
            return
        indices = tuple(transfer.missing.popleft() for _ in range(free))
        transfer.granted.update(dict.fromkeys(indices, now))
        self._used += len(indices)
        out.append((transfer.device, Grant(transfer.offer.transfer, indices)))

    def tick(self, now: float) -> tuple[list[Transfer], list[Transfer]]:
        """Take back what was granted and never came.

        Returns the transfers that were given up for their silence, and those that could start in
        their place; grants for everybody are then due.
        """
        given_up = [t for t in self._open.values() if now - t.heard > self.limits.give_up_s]
        for transfer in given_up:
            self.drop(transfer.device)
        for transfer in self._open.values():
            latest = max(transfer.granted.values(), default=now)
            if now - max(transfer.heard, latest) >= self.limits.regrant_s:
                self._forget_grants(transfer)
        return given_up, self.start_waiting(now)

    def start_waiting(self, now: float) -> list[Transfer]:
        """Start those who waited longest, as far as there is room."""
        started = []
        while self._waiting and len(self._open) < self.limits.open_max:
            device = next(iter(self._waiting))
            self._open[device] = begin(device, self._waiting.pop(device), now)
            started.append(self._open[device])
        return started

    def drop(self, device: DeviceId) -> Transfer | None:
        """Forget a device's transfer, and return what there was in the spool."""
        self._waiting.pop(device, None)
        transfer = self._open.pop(device, None) or self._finished.pop(device, None)
        if transfer:
            self._used -= len(transfer.granted)
        return transfer

    def clear(self) -> list[Transfer]:
        """Forget all of them: the round is closed."""
        dropped = [*self._open.values(), *self._finished.values()]
        self._open.clear()
        self._finished.clear()
        self._waiting.clear()
        self._used = 0
        return dropped


def update_ceiling(
    payload_ceiling: int, classes: int, seal_overhead: int, signature_length: int
) -> int:
    """The most bytes that a whole honest update can have, padding and framing included."""
    return (
        bucket(payload_ceiling + spelled_max(classes) + 256)
        + seal_overhead
        + signature_length
        + UpdateHeader.CEILING
    ) + KIB

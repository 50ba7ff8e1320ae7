"""Chunks on their way down: to everybody first, then to each device that asked, in turn.

A few at a time: the next ones follow when the broker has acknowledged those before.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

from qflare.faults import LocalFault
from qflare.host.link import Link
from qflare.host.logs import get_logger
from qflare.names import DeviceId, Digest, FleetId
from qflare.topics import AllChunk, DownChunk, build
from qflare.transfer import INDICES_MAX

AT_ONCE = 16  # chunks, at most 4 MiB
PATIENCE_S = 5.0  # with the broker's acknowledgements
_log = get_logger("downlink")

_Chunk = tuple[Digest, int]


class Downlink:
    """Queues by receiver. One device can't ask for more than INDICES_MAX chunks at a time."""

    def __init__(
        self,
        link: Link,
        read_chunk: Callable[[Digest, int], bytes],
        fleet: FleetId,
        fanned_out: Callable[[Digest], None],
    ) -> None:
        self._link, self._read_chunk, self._fleet = link, read_chunk, fleet
        self._fanned_out = fanned_out
        self._everybody: deque[_Chunk] = deque()
        self._asked: OrderedDict[DeviceId, dict[_Chunk, None]] = OrderedDict()
        self._work = asyncio.Event()

    def send(self, device: DeviceId | None, blob: Digest, indices: tuple[int, ...]) -> None:
        """Queue chunks for a device, or for everybody (None)."""
        if device is None:
            self._everybody.extend((blob, i) for i in indices)
        else:
            wanted = self._asked.setdefault(device, {})
            room = INDICES_MAX - len(wanted)
            wanted.update(dict.fromkeys([(blob, i) for i in indices][: max(0, room)]))
        self._work.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._everybody or self._asked:
                for _ in range(AT_ONCE):
                    self._one()
                await self._link.drain(PATIENCE_S)

    def _one(self) -> None:
        """Send one chunk; what the link doesn't take is asked for again by who misses it."""
        if self._everybody:
            blob, index = self._everybody.popleft()
            self._say(build(AllChunk(self._fleet, blob, index)), blob, index)
            if not self._everybody:
                self._fanned_out(blob)
        elif self._asked:
            device, wanted = self._asked.popitem(last=False)
            blob, index = next(iter(wanted))
            del wanted[blob, index]
            if wanted:
                self._asked[device] = wanted  # at the end: everybody in turn
            self._say(build(DownChunk(self._fleet, device, blob, index)), blob, index)

    def _say(self, topic: str, blob: Digest, index: int) -> None:
        try:
            self._link.publish(topic, self._read_chunk(blob, index))
        except LocalFault as fault:
            _log.error("chunk not sent", blob=blob, index=index, reason=fault)

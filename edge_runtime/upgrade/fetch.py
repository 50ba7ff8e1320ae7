"""Which chunks of a bundle to ask for, and when again. Pure.

Chunks are taken in their order alone, so what is in the file is all that has to be remembered, and
no chunk waits in memory for another.
"""

from typing import Final

from edge_runtime.traffic import Bucket
from qflare.faults import PeerFault, Reason
from qflare.rollout import CHUNK, BundleOffer

WINDOW: Final = 4  # chunks asked for and not here yet, at most
SILENCE_S: Final = 8.0  # after which they are asked for again, at least
SILENCE_MAX_S: Final = 600.0  # from a coordinator that doesn't answer at all, too


class Fetch:
    """One bundle on its way."""

    def __init__(self, offer: BundleOffer, have: int) -> None:
        """`have` bytes are in the file; the end of a chunk that isn't whole counts for nothing."""
        self.offer = offer
        self._next = min(have // CHUNK, offer.chunks - 1)
        self._asked = self._next
        self._window, self._silence = 1, SILENCE_S
        self._since = 0.0  # when something came, or was asked for while nothing was on its way

    @property
    def offset(self) -> int:
        """Where the next chunk goes."""
        return self._next * CHUNK

    @property
    def whole(self) -> bool:
        return self._next >= self.offer.chunks

    def reconnect(self) -> None:
        """What was asked for on a connection that ended will not come."""
        self._asked, self._window, self._silence = self._next, 1, SILENCE_S

    def take(self, index: int, payload: bytes, now: float) -> bool:
        """Is it the next chunk? Raises PeerFault if it is no chunk of this bundle."""
        if not 0 <= index < self.offer.chunks or len(payload) != self.offer.length(index):
            raise PeerFault(Reason.MALFORMED, f"chunk {index} of {len(payload)} bytes")
        if index != self._next or index >= self._asked:
            return False
        self._next += 1
        self._window = min(WINDOW, self._window + 1)
        self._silence = min(max(SILENCE_S, 4 * (now - self._since)), SILENCE_MAX_S)
        self._since = now
        return True

    def ask(self, now: float, limit: Bucket) -> tuple[int, ...]:
        """The chunks to ask for now; several at a time, as each question is a message too."""
        if self._asked > self._next and now - self._since >= self._silence:
            self._asked, self._window = self._next, 1
            self._silence = min(2 * self._silence, SILENCE_MAX_S)
        waiting = self._asked - self._next
        if waiting > self._window // 2:
            return ()
        due = []
        while self._asked < min(self._next + self._window, self.offer.chunks):
            if not limit.take(self.offer.length(self._asked), now):
                break
            due.append(self._asked)
            self._asked += 1
        if due and not waiting:
            self._since = now
        return tuple(due)

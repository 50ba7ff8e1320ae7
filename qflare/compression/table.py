"""The table of update codecs: names, wire ids and sizes. No arrays, so that who only has to know a
codec's name, as a device's daemon, needs no numpy.
"""

from dataclasses import dataclass

from qflare.blocks import blocks_of
from qflare.faults import PeerFault, Reason


@dataclass(frozen=True, slots=True)
class Codec:
    """A row of the table: `bits` of a level (32 is fixed point), and whether deflate follows."""

    name: str
    wire_id: int
    bits: int
    deflate: bool

    @property
    def top_level(self) -> int:
        """The largest level that an encoder uses, on both sides of zero."""
        return int(2 ** (self.bits - 1)) - 1

    def body_length(self, size: int) -> int:
        """Bytes of a body for `size` coordinates, before deflate."""
        scale_bytes = 0 if self.bits == 32 else 2 * blocks_of(size)
        return scale_bytes + -(-size * self.bits // 8)

    def payload_ceiling(self, size: int) -> int:
        """No honest payload for `size` coordinates is longer (deflate may add stored headers)."""
        length = self.body_length(size)
        return length + length // 1024 + 64 if self.deflate else length


CODECS = {
    codec.name: codec
    for codec in (
        Codec("fixed32", 1, 32, False),
        Codec("q8", 2, 8, False),
        Codec("q4", 3, 4, False),
        Codec("q8z", 4, 8, True),
        Codec("q4z", 5, 4, True),
    )
}
_BY_ID = {codec.wire_id: codec for codec in CODECS.values()}


def parse_codec(name_or_id: str | int) -> Codec:
    """The codec of this name or wire id; raise PeerFault(BAD_VALUE) if there is none."""
    found = CODECS.get(name_or_id) if isinstance(name_or_id, str) else _BY_ID.get(name_or_id)
    if found is None:
        raise PeerFault(Reason.BAD_VALUE, f"codec {str(name_or_id)[:40]!r}: want {[*CODECS]}")
    return found

"""The codecs' layouts: what a payload of each row of the table (table.py) looks like.

| name | body |
|---|---|
| `fixed32` | n × int32, in units of 2^-FRACTION_BITS |
| `q8` | a scale code per block (uint16), n × int8 levels |
| `q4` | a scale code per block (uint16), h = ceil(n/2) bytes of two levels |
| `q8z`, `q4z` | the body of `q8`, `q4` as one raw deflate stream (RFC 1951) |

In `q4`, byte j has level j in its low half and level h + j in its high half, each plus 8; if n is
odd, the high half of the last byte is 0. All numbers are little-endian. The length of a body
depends on n alone. For `fixed32`, `q8` and `q4`, payloads and decoded values are in bijection:
whatever decodes has one spelling. A deflate stream has many spellings, and encoders differ between
zlib versions, so the law for `q8z` and `q4z` is weaker: the stream must inflate to a body of
exactly the right length with nothing after it, and be within `payload_ceiling`; the body then has
one spelling. An update's identity is the digest of its signed ciphertext, so nothing rests on the
spelling of a payload.
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qflare.compression.scales import decode_scales
from qflare.compression.table import Codec
from qflare.faults import PeerFault, Reason
from qflare.tensors import BLOCK, SIZE_MAX, BlockVector, blocks_of


def pack(levels: NDArray[np.signedinteger[Any]], codes: NDArray[np.uint16], codec: Codec) -> bytes:
    """The payload of levels [size] (within the codec's bits) and scale codes [blocks]."""
    if codec.bits == 32:
        return levels.astype("<i4").tobytes()
    raw = levels.astype(np.int8).view(np.uint8)
    if codec.bits == 4:
        half = -(-len(raw) // 2)
        nibbles = raw + np.uint8(8)
        raw = nibbles[:half].copy()
        raw[: len(nibbles) - half] |= nibbles[half:] << np.uint8(4)
    body = codes.astype("<u2").tobytes() + raw.tobytes()
    if not codec.deflate:
        return body
    press = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return press.compress(body) + press.flush()


def decode(payload: bytes | memoryview, codec: Codec, size: int) -> BlockVector:
    """Parse a payload for `size` coordinates; raise PeerFault and nothing else.

    WRONG_SHAPE is another length than `size` asks for, TOO_LARGE one above the ceiling,
    MALFORMED a broken deflate stream, BAD_VALUE a field out of range.
    """
    if not 1 <= size <= SIZE_MAX:
        raise PeerFault(Reason.WRONG_SHAPE, f"{size} coordinates, want 1…{SIZE_MAX}")
    if len(payload) > codec.payload_ceiling(size):
        raise PeerFault(Reason.TOO_LARGE, f"{len(payload)} bytes for {size} coordinates")
    body = _inflate(payload, codec.body_length(size)) if codec.deflate else payload
    if len(body) != codec.body_length(size):
        raise PeerFault(
            Reason.WRONG_SHAPE,
            f"{len(body)} bytes, {size} coordinates want {codec.body_length(size)}",
        )
    blocks = blocks_of(size)
    if codec.bits == 32:
        wide = np.zeros(blocks * BLOCK, np.int32)
        wide[:size] = np.frombuffer(body, "<i4")
        return BlockVector(wide.reshape(blocks, BLOCK), np.ones(blocks, np.uint32), size)
    scales = decode_scales(np.frombuffer(body, "<u2", blocks).astype(np.uint16))
    raw = np.frombuffer(body, np.uint8, offset=2 * blocks)
    levels = np.empty(blocks * BLOCK, np.int8)
    if codec.bits == 8:
        levels[:size] = raw.view(np.int8)
    else:
        _unpack_nibbles(raw, levels[:size])
    levels[size:] = 0
    return BlockVector(levels.reshape(blocks, BLOCK), scales, size)


def _unpack_nibbles(raw: NDArray[np.uint8], levels: NDArray[np.int8]) -> None:
    size, half = len(levels), len(raw)
    out = levels.view(np.uint8)
    np.bitwise_and(raw, 15, out=out[:half])
    np.right_shift(raw[: size - half], 4, out=out[half:])
    np.subtract(levels, 8, out=levels)
    if size % 2 and raw[-1] >> 4:
        raise PeerFault(Reason.BAD_VALUE, "the unused half of the last byte is not zero")


def _inflate(stream: bytes | memoryview, length: int) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        body = inflater.decompress(stream, length + 1)
    except zlib.error as error:
        raise PeerFault(Reason.MALFORMED, f"deflate stream: {error}") from None
    if not inflater.eof or inflater.unused_data or len(body) > length:
        raise PeerFault(Reason.MALFORMED, "deflate stream does not end where it should")
    return body

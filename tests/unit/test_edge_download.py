"""A device that fetches a blob whose size it doesn't know."""

import pytest

from edge_runtime.download import Downloads
from edge_runtime.traffic import Bucket
from qflare.faults import PeerFault, Reason
from qflare.messages import CHUNK_MAX
from qflare.names import Digest
from tests.edge_pilot import Shelf

BLOB = bytes(i * 7 % 251 for i in range(3 * CHUNK_MAX + 1))
NAME = Digest.of(BLOB)


def _forged_last_chunk() -> Downloads:
    """All of the blob is here, but its short last chunk was forged to a whole one."""
    downloads = Downloads()
    downloads.want(NAME, 10 * CHUNK_MAX, 0.0)
    for i in range(3):
        downloads.take(NAME, i, BLOB[i * CHUNK_MAX : (i + 1) * CHUNK_MAX], 1.0)
    piece = downloads.take(NAME, 3, bytes(CHUNK_MAX), 1.0)
    assert piece is None or not piece.last
    return downloads


def test_the_end_of_the_blob_shows_a_forged_last_chunk() -> None:
    downloads = _forged_last_chunk()
    (ask,) = downloads.asks(1.0, Bucket(0))
    assert 4 in ask.indices
    with pytest.raises(PeerFault) as refused:
        downloads.take(NAME, 4, b"", 2.0)
    assert refused.value.reason is Reason.WRONG_DIGEST
    shelf = Shelf()
    for now in range(3, 20):
        for ask in downloads.asks(float(now), Bucket(0)):
            for i in ask.indices:
                piece = downloads.take(NAME, i, BLOB[i * CHUNK_MAX :][:CHUNK_MAX], float(now))
                if shelf.put(piece):
                    assert shelf.data == BLOB
                    return
    raise AssertionError("nothing was fetched again")


@pytest.mark.parametrize("index", [5, 9])
def test_an_end_that_comes_before_its_chunks_drops_nothing(index: int) -> None:
    downloads = _forged_last_chunk()
    downloads.take(NAME, index, b"", 2.0)
    with pytest.raises(PeerFault):
        downloads.take(NAME, 4, b"", 2.0)

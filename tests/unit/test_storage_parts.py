"""Blobs that are put by while they are fetched: what a restart, a cut or a full disk leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.download import CHUNK_SIZES, Downloads, Piece
from edge_runtime.storage.blobs import BlobGone, Blobs
from edge_runtime.traffic import Bucket
from qflare.names import Digest

CHUNK = CHUNK_SIZES[0]
DATA = bytes(i * 7 % 251 for i in range(10 * CHUNK + 5))
BLOB = Digest.of(DATA)


def piece(first: int, end: int | None, chunk: int = CHUNK) -> Piece:
    """Chunks first…end-1 of the blob; to its end if that is None."""
    at = first * chunk
    data = DATA[at:] if end is None else DATA[at : end * chunk]
    return Piece(chunk, at, data, end is None)


def store(blobs: Blobs, it: Piece) -> None:
    if it.last:
        blobs.write(BLOB, it.data, it.offset)
    else:
        blobs.put_by(BLOB, it, len(DATA))


def names(blobs: Path) -> set[str]:
    return {file.name for file in blobs.iterdir()}


def test_a_restart_goes_on_behind_the_last_whole_chunk(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.put_by(BLOB, piece(0, 4), len(DATA))
    blobs.put_by(BLOB, piece(4, 8), len(DATA))
    assert blobs.all() == frozenset()
    with (tmp_path / f".{BLOB}.{CHUNK}.part").open("r+b") as file:
        file.truncate(7 * CHUNK + 100)  # the power went
    found = Blobs(tmp_path).parts()
    assert (found[BLOB].chunk, found[BLOB].count) == (CHUNK, 7)
    downloads = Downloads(found)
    assert downloads.want(BLOB, len(DATA), 0.0) == 7 * CHUNK
    for now in range(9):
        for ask in downloads.asks(float(now), Bucket(0)):
            assert min(ask.indices) >= 7
            for i in ask.indices:
                got = downloads.take(BLOB, i, DATA[i * CHUNK :][:CHUNK], float(now))
                if got is not None:
                    store(blobs, got)
    assert blobs.read(BLOB) == DATA
    assert names(tmp_path) == {str(BLOB)}


def test_one_that_was_whole_but_for_its_name_gets_it(tmp_path: Path) -> None:
    data = DATA[: 4 * CHUNK]
    (tmp_path / f".{Digest.of(data)}.{CHUNK}.part").write_bytes(data)
    blobs = Blobs(tmp_path)
    assert blobs.parts() == {}
    assert blobs.read(Digest.of(data)) == data


def test_a_blob_with_a_short_last_chunk_is_finished_after_a_cut(tmp_path: Path) -> None:
    (tmp_path / f".{BLOB}.{CHUNK}.part").write_bytes(DATA)
    blobs = Blobs(tmp_path)
    assert blobs.parts()[BLOB].count == 10
    blobs.write(BLOB, DATA[10 * CHUNK :], 10 * CHUNK)
    assert blobs.read(BLOB) == DATA


def test_longer_rubbish_of_before_doesnt_stay_behind_it(tmp_path: Path) -> None:
    (tmp_path / f".{BLOB}.{CHUNK_SIZES[1]}.part").write_bytes(bytes(2 * len(DATA)))
    blobs = Blobs(tmp_path)
    blobs.put_by(BLOB, piece(0, 4), len(DATA))
    assert len(names(tmp_path)) == 1
    blobs.write(BLOB, DATA[4 * CHUNK :], 4 * CHUNK)
    assert blobs.read(BLOB) == DATA


@pytest.mark.parametrize(
    "name",
    [f".{BLOB}.5.part", f".{BLOB}.{CHUNK}.part", f".{'g' * 64}.{CHUNK}.part", f".{BLOB}.part"],
)
def test_what_makes_no_sense_is_no_part(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x" * 100)
    blobs = Blobs(tmp_path)
    assert blobs.parts() == {}
    blobs.keep([BLOB])
    assert not names(tmp_path)


def test_parts_of_what_isnt_wanted_go(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.put_by(BLOB, piece(0, 4), len(DATA))
    blobs.keep([BLOB])
    assert len(names(tmp_path)) == 1
    blobs.keep([Digest.of(b"another")])
    assert not names(tmp_path)
    blobs.put_by(BLOB, piece(0, 4), len(DATA))
    (tmp_path / str(BLOB)).write_bytes(DATA)  # it came from elsewhere
    assert Blobs(tmp_path).parts() == {}
    assert names(tmp_path) == {str(BLOB)}


@pytest.mark.parametrize("last", [False, True])
def test_without_its_beginning_it_is_fetched_again(tmp_path: Path, last: bool) -> None:
    blobs = Blobs(tmp_path)
    blobs.put_by(BLOB, piece(0, 4), len(DATA))
    with pytest.raises(BlobGone, match="beginning"):
        store(blobs, piece(5, None if last else 6))
    assert not names(tmp_path)


def test_a_model_that_is_too_large_is_refused_at_its_first_piece(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, limit=len(DATA) - 1)
    with pytest.raises(BlobGone, match="models_mb"):
        blobs.put_by(BLOB, piece(0, 4), len(DATA))
    assert not names(tmp_path)
    with pytest.raises(BlobGone, match="no room"):
        Blobs(tmp_path, limit=2**62).put_by(BLOB, piece(0, 4), 2**50)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=300), times=st.integers(0, 2000), cut=st.integers(0, 100))
def test_whatever_a_part_holds_the_blob_comes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, times: int, cut: int
) -> None:
    """Forged or rotten, it costs that download a new start at most."""
    here = tmp_path_factory.mktemp("blobs")
    (here / f".{BLOB}.{CHUNK}.part").write_bytes((content * times)[: len(DATA) + 3 - cut])
    blobs = Blobs(here)
    downloads = Downloads(blobs.parts())
    downloads.want(BLOB, len(DATA), 0.0)
    now, starts = 0.0, 1
    while BLOB in downloads:
        now += 1.0
        assert now < 100
        for ask in downloads.asks(now, Bucket(0)):
            for i in ask.indices:
                try:
                    got = downloads.take(BLOB, i, DATA[i * CHUNK :][:CHUNK], now)
                except Exception:
                    starts += 1
                    continue
                if got is not None:
                    store(blobs, got)
    assert starts <= 2
    assert blobs.read(BLOB) == DATA
    assert names(here) == {str(BLOB)}


_CHILD = """
import sys
from pathlib import Path
from edge_runtime.storage.blobs import Blobs
from tests.unit.test_storage_parts import BLOB, DATA, piece
blobs = Blobs(Path(sys.argv[1]))
for first in range(0, 10, 2):
    blobs.put_by(BLOB, piece(first, first + 2), len(DATA))
    print(first, flush=True)
sys.stdin.read()
"""


def test_kill_9_takes_nothing_that_was_put_by(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()
    child.kill()
    child.communicate()
    assert Blobs(tmp_path).parts()[BLOB].count >= 6


def test_a_read_only_disk_is_told_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(os, "open", refuse)
    for end in (4, None):
        with pytest.raises(BlobGone, match="Read-only"):
            store(blobs, piece(0, end))

"""The enclave's state on disk: what was written last is there, however a later write broke off."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave import slots
from enclave.slots import NAMES, Slots
from qflare.faults import LocalFault

STATES = st.lists(st.binary(max_size=60), min_size=1, max_size=6)


class Cut(Exception):
    """The power is gone."""


@contextlib.contextmanager
def opened(directory: str) -> Iterator[Slots]:
    """What an enclave holds to its end, closed: a process that tests has only so many files."""
    it = Slots(Path(directory))
    try:
        yield it
    finally:
        for file in it.files:
            os.close(file)


def found(directory: str) -> bytes | None:
    with opened(directory) as it:
        return it.state


@given(STATES)
def test_the_last_one_counts(states: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as here:
        assert found(here) is None
        for state in states:
            with opened(here) as it:
                it.write(state)
            assert found(here) == slots.read(Path(here)) == state
        with opened(here) as it:
            for state in states:
                it.write(state)
        assert found(here) == states[-1]


@given(STATES, st.binary(max_size=60), st.integers(0, 200))
def test_a_write_that_breaks_off_changes_nothing(
    states: list[bytes], last: bytes, left: int
) -> None:
    """After any number of bytes; the old length of the file may remain behind them."""
    real = os.pwrite

    def cut(file: int, data: memoryview, at: int) -> int:
        nonlocal left
        taken = min(left, len(data))
        left -= taken
        real(file, bytes(data[:taken]), at)
        if left == 0:
            raise Cut
        return taken

    with tempfile.TemporaryDirectory() as here:
        with opened(here) as it:
            for state in states:
                it.write(state)
            with patch.object(os, "pwrite", cut), contextlib.suppress(Cut):
                it.write(last)
        assert found(here) in (states[-1], last)
        with opened(here) as it:
            it.write(b"on it goes")
        assert found(here) == b"on it goes"


@given(STATES, st.data())
def test_a_damaged_file_is_passed_over(states: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as here:
        with opened(here) as it:
            for state in (b"before", *states):
                it.write(state)
        newest = Path(here) / NAMES[(len(states) + 1) % 2]
        raw = bytearray(newest.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        newest.write_bytes(raw)
        assert found(here) == (b"before", *states)[-2]


def test_it_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"somebody's")
    (tmp_path / NAMES[0]).symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Slots(tmp_path)
    assert (tmp_path / "elsewhere").read_bytes() == b"somebody's"


def test_damage_to_both_is_not_a_fresh_start(tmp_path: Path) -> None:
    for state in (b"one", b"two"):
        Slots(tmp_path).write(state)
    for name in NAMES:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    with pytest.raises(LocalFault, match="damaged"):
        Slots(tmp_path)

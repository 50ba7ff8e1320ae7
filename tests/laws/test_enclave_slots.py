"""The enclave's state on disk: what was written last is there, however a later write broke off."""

import contextlib
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave import slots
from enclave.slots import NAMES, Slots

STATES = st.lists(st.binary(max_size=60), min_size=1, max_size=6)


class Cut(Exception):
    """The power is gone."""


def opened(directory: str) -> Slots:
    return Slots(Path(directory))


@given(STATES)
def test_the_last_one_counts(states: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as here:
        assert opened(here).state is None
        for state in states:
            opened(here).write(state)
            assert opened(here).state == slots.read(Path(here)) == state
        one = opened(here)
        for state in states:
            one.write(state)
        assert opened(here).state == states[-1]


@given(STATES, st.binary(max_size=60), st.integers(0, 200))
def test_a_write_that_breaks_off_changes_nothing(
    states: list[bytes], last: bytes, left: int
) -> None:
    """After any number of bytes; the old length of the file may remain behind them."""
    real = slots.os.pwrite  # type: ignore[attr-defined]

    def cut(file: int, data: memoryview, at: int) -> int:
        nonlocal left
        taken = min(left, len(data))
        left -= taken
        real(file, bytes(data[:taken]), at)
        if left == 0:
            raise Cut
        return taken

    with tempfile.TemporaryDirectory() as here:
        it = opened(here)
        for state in states:
            it.write(state)
        with patch.object(slots.os, "pwrite", cut), contextlib.suppress(Cut):  # type: ignore[attr-defined]
            it.write(last)
        found = opened(here).state
        assert found in (states[-1], last)
        opened(here).write(b"on it goes")
        assert opened(here).state == b"on it goes"


@given(STATES, st.data())
def test_a_damaged_file_is_passed_over(states: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as here:
        it = opened(here)
        for state in (b"before", *states):
            it.write(state)
        newest = Path(here) / NAMES[(len(states) + 1) % 2]
        raw = bytearray(newest.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        newest.write_bytes(raw)
        assert opened(here).state == (b"before", *states)[-2]


def test_it_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"somebody's")
    (tmp_path / NAMES[0]).symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Slots(tmp_path)
    assert (tmp_path / "elsewhere").read_bytes() == b"somebody's"

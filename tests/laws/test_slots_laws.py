"""Slots through crashes: a model of what must be true, held against the disk after every step.

A crash is an exception out of a system call that changes the disk, and from then on out of every
such call, so that no clean-up runs either. What the system does with writes that weren't flushed is
the business of `write_atomic` and of the tests that cut the power.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from edge_runtime.slots import Slots, read_slot
from qflare.faults import LocalFault
from qflare.names import Digest
from tests.serving_rig import file_of, manifest_of

MODELS = [Digest.of(bytes([i])) for i in range(5)]
CALLS = ("open", "rename", "replace", "symlink", "unlink", "rmdir", "mkdir", "fsync", "chmod")


class PowerCut(BaseException):
    """The process is gone."""


@contextmanager
def power_cut_at(call: int | None) -> Iterator[None]:
    """Let the `call`-th changing system call, and all after it, not happen."""
    left = [-1 if call is None else call]

    def guarded(real):  # type: ignore[no-untyped-def]
        def run(*args, **kwargs):  # type: ignore[no-untyped-def]
            changes = real is not os.open or (len(args) > 1 and args[1] & os.O_CREAT)
            if changes and left[0] == 0:
                raise PowerCut
            if changes and left[0] > 0:
                left[0] -= 1
            return real(*args, **kwargs)

        return run

    patches = [patch.object(os, name, guarded(getattr(os, name))) for name in CALLS]
    for it in patches:
        it.start()
    try:
        yield
    finally:
        for it in patches:
            it.stop()


class SlotsMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "model"
        self.slots = Slots(self.path)
        self.active: Digest | None = None
        self.previous: Digest | None = None
        self.may_be: set[Digest | None] = {None}  # what may be active after an unfinished step
        self.refused: set[Digest] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def step(self, what, cut: int | None) -> bool:  # type: ignore[no-untyped-def]
        """Do it, perhaps not to its end; did it end?"""
        try:
            with power_cut_at(cut):
                what()
            return True
        except PowerCut:
            self.slots = Slots(self.path)  # the process starts again
            return False

    cuts = st.none() | st.integers(0, 40)

    @rule(model=st.sampled_from(MODELS), cut=cuts, score=st.integers(0, 3))
    def stage(self, model: Digest, cut: int | None, score: int) -> None:
        if self.step(
            lambda: self.slots.stage(model, file_of(model), manifest_of(model, score)), cut
        ):
            assert self.slots.sound(model)

    @rule(model=st.sampled_from(MODELS), cut=cuts)
    def activate(self, model: Digest, cut: int | None) -> None:
        self.slots.stage(model, file_of(model), manifest_of(model))
        self.may_be = {self.active, model}
        if self.step(lambda: self.slots.activate(model, 3, 12.5), cut):
            self.may_be = {model}
            state = self.slots.state
            assert (state.active, state.round if self.active != model else 3) == (str(model), 3)
            if self.active not in (None, model):
                assert state.previous == str(self.active)
            self.refused.discard(model)
        self.look(model)

    @rule(model=st.sampled_from(MODELS), cut=cuts)
    def refuse(self, model: Digest, cut: int | None) -> None:
        if model == self.active:
            return
        if self.step(lambda: self.slots.refuse(model, "worse"), cut):
            assert model in self.slots.refused
            self.refused.add(model)
        self.look()

    @precondition(lambda self: self.previous is not None)
    @rule(cut=cuts)
    def rollback(self, cut: int | None) -> None:
        left = self.active
        assert left is not None
        self.may_be = {self.active, self.previous}
        if self.step(lambda: self.slots.rollback("by command", 99.0), cut):
            assert left in self.slots.refused
            self.may_be = {self.previous}
        self.look()

    @precondition(lambda self: self.previous is None)
    @rule()
    def rollback_to_nothing(self) -> None:
        before = self.slots.state
        try:
            self.slots.rollback("by command", 99.0)
        except LocalFault:
            assert self.slots.state == before
        else:
            raise AssertionError

    @rule(cut=cuts)
    def restart(self, cut: int | None) -> None:
        self.step(lambda: Slots(self.path), cut)
        self.slots = Slots(self.path)

    def look(self, tried: Digest | None = None) -> None:
        state = self.slots.state
        self.active = Digest.parse(state.active) if state.active else None
        self.previous = Digest.parse(state.previous) if state.previous else None
        assert self.active in self.may_be
        self.may_be = {self.active}
        assert self.refused - {tried} <= set(self.slots.refused) | {self.active}
        self.refused = set(self.slots.refused)

    @invariant()
    def the_link_leads_to_a_whole_accepted_model(self) -> None:
        if not hasattr(self, "slots"):
            return
        state = self.slots.state
        assert (Digest.parse(state.active) if state.active else None) in self.may_be
        if state.active is None:
            assert not self.slots.link.is_symlink()
            return
        slot = read_slot(self.slots.link)
        assert str(slot.model) == state.active
        assert slot.read() == file_of(slot.model)
        assert state.active not in {it.model for it in state.refused}
        if state.previous:
            assert self.slots.sound(Digest.parse(state.previous))
        rest = [p.name for p in self.path.iterdir() if p.name.endswith(".tmp")]
        assert not rest


@pytest.mark.parametrize("cut", range(40))
def test_looking_at_the_model_before_once_more_never_loses_it(tmp_path: Path, cut: int) -> None:
    slots = Slots(tmp_path / "model")
    before, now = MODELS[:2]
    for model in (before, now):
        slots.stage(model, file_of(model), manifest_of(model))
        slots.activate(model, 3, 12.5)
    with suppress(PowerCut), power_cut_at(cut):
        slots.stage(before, file_of(before), manifest_of(before, 1))
    assert Slots(tmp_path / "model").sound(before)


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)

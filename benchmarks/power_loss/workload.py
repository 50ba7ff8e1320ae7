"""What the store is made to do while it is recorded, and what must be there after any part of it.

The steps follow from a seed, so that after a cut the state on the disk can be compared with the
state after the last step that was completed, or the one that was at work: nothing else is right.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from edge_runtime.events import Commit, SaveManifest, Settle
from edge_runtime.memory import Fate, JournalEntry, Memory, OutboxEntry, RoundStats
from edge_runtime.state import JOURNAL_KEPT, Past
from edge_runtime.storage.vault import DataKey, Vault
from edge_runtime.store import Bounds, Store
from qflare.host.files import read_bounded, write_atomic
from qflare.merkle import EMPTY_ROOT
from qflare.messages import Checkpoint
from qflare.names import Digest

_KEY: Final = DataKey(b"power-ct", bytes(range(32)))
BOUNDS: Final = Bounds(reserve=1024 * 1024)

Step = Commit | Settle | SaveManifest | Memory | bytes | int | frozenset[Digest] | None


@dataclass(frozen=True)
class State:
    """What the store has after some steps."""

    opened: int = 0
    memory: Memory = field(default_factory=Memory)
    manifest: bytes | None = None
    outbox: tuple[OutboxEntry, ...] = ()
    journal: tuple[JournalEntry, ...] = ()
    residual: bytes | None = None
    personal: bytes | None = None
    blobs: frozenset[Digest] = frozenset()
    note: int = 0


def vault_of(seed: int) -> Vault:
    """Every second run is encrypted."""
    return Vault([_KEY]) if seed % 2 else Vault()


def steps(seed: int, rounds: int) -> Iterator[Step]:
    """None: close and open again; bytes: keep a blob; int: replace a small file."""
    draw = random.Random(seed)
    memory, blobs = replace(Memory(), manifest_version=1), [b""]
    yield SaveManifest(draw.randbytes(3000), memory)
    for round_ in range(1, rounds + 1):
        blobs = [*blobs[-1:], draw.randbytes(draw.choice((5_000, 60_000)))]
        yield blobs[-1]
        memory = memory.with_checkpoint(Checkpoint(round_, EMPTY_ROOT))
        yield memory
        claims = Digest.of(draw.randbytes(8))
        memory = memory.with_answer(round_, claims)
        commit = _commit(draw, round_, claims, memory)
        yield commit
        yield round_
        update = commit.entry.update
        yield Settle(update, draw.choice((Fate.ACCEPTED, Fate.REFUSED)), commit.journal.stats)
        memory = memory.with_active(Digest.of(blobs[-1]))
        yield memory
        yield frozenset(Digest.of(blob) for blob in blobs)
        yield Settle(update, Fate.COUNTED, commit.journal.stats)
        if draw.random() < 0.15:
            yield None


def _commit(draw: random.Random, round_: int, claims: Digest, memory: Memory) -> Commit:
    data = draw.randbytes(draw.choice((7_000, 30_000, 150_000)))
    update = Digest.of(data)
    stats = RoundStats(stages=(("train", draw.random()),), counters=(("steps", round_),))
    personal = draw.randbytes(2000) if draw.random() < 0.5 else None
    return Commit(
        OutboxEntry(round_, update, 4096, data),
        JournalEntry(round_, claims, update, Fate.WAITING, stats),
        draw.randbytes(14_000),
        memory,
        personal,
    )


def after(state: State, step: Step) -> State:
    """The state once a step is done."""
    match step:
        case None:
            return replace(state, opened=state.opened + 1)
        case SaveManifest(manifest, memory):
            return replace(state, manifest=manifest, memory=memory)
        case Memory():
            return replace(state, memory=step)
        case bytes():
            return replace(state, blobs=state.blobs | {Digest.of(step)})
        case frozenset():
            return replace(state, blobs=state.blobs & step)
        case int():
            return replace(state, note=step)
        case Commit(entry, journal, residual, memory, personal):
            return replace(
                state,
                outbox=(*state.outbox, entry),
                journal=(*state.journal, journal)[-JOURNAL_KEPT:],
                residual=residual,
                personal=personal,
                memory=memory,
            )
        case Settle(update, fate, stats):
            journal = tuple(
                replace(e, fate=fate, stats=stats) if e.update == update else e
                for e in state.journal
            )
            outbox = tuple(e for e in state.outbox if e.update != update)
            return replace(state, journal=journal, outbox=outbox)


def work(directory: Path, mark: Path, seed: int, rounds: int) -> None:
    """Do all the steps; note each when it is done."""
    with mark.open("wb", buffering=0) as marks:
        store = Store(directory / "state", vault_of(seed), BOUNDS)
        store.load()
        marks.write(b"open")
        for step in steps(seed, rounds):
            match step:
                case None:
                    store.close()
                    store = Store(directory / "state", vault_of(seed), BOUNDS)
                    store.load()
                case SaveManifest():
                    store.save_manifest(step)
                case Memory():
                    store.save_memory(step)
                case Commit():
                    store.commit(step)
                case Settle():
                    store.settle(step)
                case bytes():
                    store.blobs.write(Digest.of(step), step)
                case frozenset():
                    store.blobs.keep(step)
                case int():
                    write_atomic(directory / "note", b"%d" % step * 1000)
            marks.write(b"step")
        store.close()


def verify(directory: Path, seed: int, rounds: int, marks: int) -> None:
    """Compare what is on the disk with the steps; raise AssertionError for anything else.

    `marks` is how many notes had been made: opened once, then a step each.
    """
    done, coming = State(opened=min(marks, 1)), State(opened=1)
    sequence = steps(seed, rounds)
    for _ in range(marks - 1):
        done = after(done, next(sequence))
    if marks:
        step = next(sequence, 0 if done.note == 0 else done.note)
        coming = after(done, step)
    (directory / "state").mkdir(exist_ok=True)
    store = Store(directory / "state", vault_of(seed), BOUNDS)
    try:
        past = store.load()
        assert store.findings == [], store.findings
        found = _state(past, store, directory)
        assert past.session > done.opened, "a session began twice"
        kept = done.blobs & coming.blobs
        assert kept <= past.blobs, "a model is gone"
        for blob in past.blobs:
            assert Digest.of(store.blobs.read(blob)) == blob
        for state in (done, coming):
            if replace(state, opened=0, blobs=frozenset()) == found:
                break
        else:
            raise AssertionError(_difference(found, done, coming))
        go_on(store, past)
    finally:
        store.close()


def go_on(store: Store, past: Past) -> None:
    """The device works on: another round, committed and read back."""
    draw = random.Random(0)
    round_ = past.memory.answered_round + 1
    claims = Digest.of(b"next")
    commit = _commit(draw, round_, claims, past.memory.with_answer(round_, claims))
    store.commit(commit)
    again = store.load()
    assert again.memory == commit.memory
    assert again.outbox == (*past.outbox, commit.entry)
    assert store.residual() == commit.residual


def _state(past: Past, store: Store, directory: Path) -> State:
    note = 0
    if (directory / "note").exists():
        text = read_bounded(directory / "note", 100_000)
        number = text[: len(text) // 1000]
        assert text == number * 1000, "a file is torn"
        note = int(number)
    assert note or not (directory / "note").exists(), "a file is empty"
    return State(
        memory=past.memory,
        manifest=past.manifest,
        outbox=past.outbox,
        journal=past.journal,
        residual=store.residual(),
        personal=store.personal(),
        note=note,
    )


def _difference(found: State, done: State, coming: State) -> str:
    names = [
        name
        for name in ("memory", "manifest", "outbox", "journal", "residual", "personal", "note")
        if getattr(found, name) not in (getattr(done, name), getattr(coming, name))
    ]
    return f"{names or 'a mixture'}: not the state after the last step, nor after the next"

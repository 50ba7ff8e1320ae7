"""Models and power cuts, on a real ext4 whose disk forgets what wasn't flushed.

Whatever was being done, an application that opens the stable path after a cut, even before the
daemon is up again, finds a whole model: the one that was active, or the one that was about to be.
And a download that was broken off by a cut ends in its model, whatever is left of it.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from benchmarks.power_loss.disks import MODES, Disk
from benchmarks.power_loss.mounts import make_ext4, missing, mounted, recorded
from benchmarks.power_loss.recorder import read_log
from edge_runtime.download import CHUNK_SIZES, Downloads, Piece
from edge_runtime.slots import ACTIVE, SlotManifest, Slots, read_slot
from edge_runtime.storage.blobs import Blobs
from edge_runtime.traffic import Bucket
from qflare.faults import LocalFault, PeerFault
from qflare.host import files as files_module
from qflare.names import Digest
from tests.serving_rig import manifest_of

lacking = missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(lacking is not None, reason=str(lacking)),
    pytest.mark.xdist_group("loop devices"),
]

STEPS, CUTS = 40, 30
CHUNK = CHUNK_SIZES[0]


def campaign(
    here: Path,
    seed: int,
    work: Callable[[Path, Callable[[], None]], None],
    verify: Callable[[Path, int], None],
) -> None:
    """Record `work`, which says when each of its steps is done; cut; verify what is there."""
    image, log_file = here / "image", here / "log"
    make_ext4(image)
    base = image.read_bytes()
    with recorded(image, log_file, here) as (files, mark), mark.open("wb", buffering=0) as marks:

        def done() -> None:
            marks.write(b"done")

        work(files, done)
    log = list(read_log(log_file))
    draw, disk = random.Random(seed), Disk(base, log)
    for point in sorted(draw.randrange(1, len(log) + 1) for _ in range(CUTS)):
        cut = here / "cut"
        cut.unlink(missing_ok=True)  # whatever still has the one before writes into that
        cut.write_bytes(disk.cut(point, draw.choice(MODES), draw))
        with mounted(cut, here / "after") as files:
            verify(files, len(disk.marks))


# --- the switch --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What is done with a model, and what is active afterwards."""

    what: str
    model: Digest
    active: Digest | None
    previous: Digest | None = None


def content(model: Digest) -> bytes:
    return random.Random(model.raw).randbytes(20_000 + 300 * model.raw[0])


def manifest(model: Digest, correct: int = 0) -> SlotManifest:
    file = str(Digest.of(content(model)))
    return msgspec.structs.replace(manifest_of(model, correct), file=file)


def steps(seed: int) -> Iterator[Step]:
    """Releases, of which some are refused; roll-backs; checks of the active model; restarts."""
    draw = random.Random(seed)
    now = Step("restart", Digest.of(b""), None)
    for number in range(STEPS):
        model = Digest.of(bytes([seed, number]))
        what = draw.choice(["activate"] * 4 + ["refuse", "rollback", "check", "restart"])
        if what == "activate":
            now = Step(what, model, model, now.active)
        elif what == "rollback" and now.previous is not None:
            now = Step(what, model, now.previous)
        elif what == "check" and now.active is not None:
            now = replace(now, what=what, model=now.active)
        else:
            now = replace(now, what="refuse" if what == "refuse" else "restart", model=model)
        yield now


def switch(seed: int) -> Callable[[Path, Callable[[], None]], None]:
    def work(files: Path, done: Callable[[], None]) -> None:
        slots = Slots(files / "model")
        for number, step in enumerate(steps(seed)):
            match step.what:
                case "restart":
                    slots = Slots(files / "model")
                case "rollback":
                    slots.rollback("by command", 1.0)
                case _:
                    slots.stage(step.model, content(step.model), manifest(step.model, number))
                    if step.what == "refuse":
                        slots.refuse(step.model, "worse")
                    else:
                        slots.activate(step.model, 1, 1.0)
            done()

    return work


def verify_switch(seed: int) -> Callable[[Path, int], None]:
    def verify(files: Path, marks: int) -> None:
        known = list(steps(seed))
        may_be = [known[marks - 1].active if marks else None]
        may_be += [known[marks].active] if marks < len(known) else []
        link = files / "model" / ACTIVE
        if not link.is_symlink():  # before the daemon is up again
            assert None in may_be
        else:
            slot = read_slot(link)
            assert slot.model in may_be
            assert slot.read() == content(slot.model)
        slots = Slots(files / "model")
        active = slots.active
        assert (active.model if active else None) in may_be
        if active is not None:
            assert link.resolve() == active.directory.resolve()
            assert active.read() == content(active.model)
        new = Digest.of(b"the next one")
        slots.stage(new, content(new), manifest(new))
        slots.activate(new, 9, 9.0)
        assert read_slot(link).read() == content(new)
        state = slots.state
        assert state.previous == (None if active is None else str(active.model))

    return verify


@pytest.mark.parametrize("seed", [1, 2])
def test_the_stable_path_leads_to_a_whole_model(tmp_path: Path, seed: int) -> None:
    campaign(tmp_path, seed, switch(seed), verify_switch(seed))


def test_slots_that_dont_flush_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = switch(1)

    def hasty(files: Path, done: Callable[[], None]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(files_module.os, "fsync", lambda _: None)
            work(files, done)

    with pytest.raises((AssertionError, LocalFault)):
        campaign(tmp_path, 1, hasty, verify_switch(1))


# --- downloads ---------------------------------------------------------------------------------

MODELS = [random.Random(n).randbytes(n * CHUNK + 5 * n) for n in (7, 12, 5, 16)]


def fetch(files: Path, done: Callable[[], None]) -> None:
    """Some models, in pieces of two chunks; the last one stays unfinished."""
    blobs = Blobs(files / "blobs")
    for data in MODELS:
        name = Digest.of(data)
        at = 0
        while len(data) - at > 2 * CHUNK:
            blobs.put_by(name, Piece(CHUNK, at, data[at : at + 2 * CHUNK], False), len(data))
            at += 2 * CHUNK
        if data is not MODELS[-1]:
            blobs.write(name, data[at:], at)
            done()
    blobs.keep([Digest.of(MODELS[-1])])


def verify_fetched(files: Path, marks: int) -> None:
    blobs = Blobs(files / "blobs")
    downloads = Downloads(blobs.parts())
    there = blobs.all()
    for number, data in enumerate(MODELS):
        name = Digest.of(data)
        if name in there:  # its name is there, so it is whole
            assert blobs.read(name) == data
        elif number >= marks:
            downloads.want(name, len(data), 0.0)
            finish(blobs, downloads, name, data)
            assert blobs.read(name) == data
        else:
            assert marks == len(MODELS) - 1  # it was removed again


def finish(blobs: Blobs, downloads: Downloads, name: Digest, data: bytes) -> None:
    """Answer what is asked for."""
    now = 0.0
    while name in downloads:
        now += 1.0
        assert now < 100, "the download is stuck"
        for ask in downloads.asks(now, Bucket(0)):
            for i in ask.indices:
                try:
                    piece = downloads.take(name, i, data[i * CHUNK : (i + 1) * CHUNK], now)
                except PeerFault:  # what was put by is damaged
                    continue
                if piece is not None and piece.last:
                    blobs.write(name, piece.data, piece.offset)
                elif piece is not None:
                    blobs.put_by(name, piece, len(data))


def test_a_download_goes_on_after_any_cut(tmp_path: Path) -> None:
    campaign(tmp_path, 3, fetch, verify_fetched)

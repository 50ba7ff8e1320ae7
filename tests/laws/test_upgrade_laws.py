"""An update cut off anywhere: `current` always names a version that is whole, and it ends well."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.upgrade.apply import ENTERED_MAX, Upgrade
from edge_runtime.upgrade.places import Complete, Places
from qflare.faults import PeerFault
from qflare.host.bundle import peek_bundle, read_manifest, read_wheels
from qflare.release import ReleaseManifest
from tests.upgrade_kit import OWNER, Board, bundle_of, daemon_wheels, manifest_of


class Cut(BaseException):
    """The power is gone."""


def between(tick: Callable[[], None], change: Callable[..., Any], *args: Any, **named: Any) -> Any:
    tick()
    done = change(*args, **named)
    tick()
    return done


CHANGES = ("mkdir", "rename", "replace", "rmdir", "symlink", "unlink")


@contextmanager
def power(tick: Callable[[], None]) -> Iterator[None]:
    """Before and after whatever changes a directory, the power may go."""
    with ExitStack() as stack:
        for name in CHANGES:
            change = partial(between, tick, getattr(os, name))
            stack.enter_context(mock.patch.object(os, name, change))
        stack.enter_context(mock.patch.object(os, "sync", tick))
        yield


class World:
    """A board whose power goes at chosen moments, with a release that is good or isn't."""

    def __init__(self, here: Path, cuts: set[int], faulty: bool = False) -> None:
        self.board, self.cuts, self.faulty = Board(here), cuts, faulty
        self.ticks, self.dead, self.tried = 0, False, []  # type: int, bool, list[str]
        places = Places(self.board.opt)
        places.prepare()
        for version, sequence in (("0.9.0", 1), ("1.0.0", 2)):
            places.of(version).mkdir()
            places.finish(Complete(version=version, sequence=sequence))
        places.point("current", "1.0.0")
        places.point("proven", "1.0.0")
        self.places = places

    def tick(self) -> None:
        """Without power, nothing is done any more: no `finally` tidies up either."""
        self.ticks += 1
        self.dead = self.dead or self.ticks in self.cuts
        if self.dead:
            raise Cut

    def install(
        self, source: BinaryIO, manifest: ReleaseManifest, places: Places, config: Path | None
    ) -> None:
        read_wheels(source, manifest)
        places.remove(manifest.version)
        places.of(manifest.version).mkdir()
        (places.of(manifest.version) / "half").touch()
        places.finish(Complete(version=manifest.version, sequence=manifest.sequence))

    # the trial

    def restart(self) -> str:
        self.tick()
        self.tried.append(self.places.linked("current") or "")
        return ""

    def judge(self, version: str) -> str:
        self.tick()
        assert self.places.linked("current") == version
        return "it doesn't get on" if self.faulty else ""

    def run(self) -> int:
        """Until it comes to an end; how many boots that took."""
        for boot in range(1, 50):
            upgrade = Upgrade(self.places, self.board.device(), self, lambda _: None, self.install)
            self.dead = False
            try:
                with power(self.tick):
                    upgrade.run()
            except Cut:
                continue
            finally:
                self.holds()
            return boot
        raise AssertionError("it never ended")

    def holds(self) -> None:
        """What is true at every moment."""
        for name in ("current", "proven"):
            version = self.places.linked(name)  # type: ignore[arg-type]
            assert version is not None
            assert self.places.complete(version) is not None
        # Whoever runs at the next boot isn't on trial, unless that has been passed.
        ledger, proven = self.places.ledger(), self.places.linked("proven")
        assert proven == "1.0.0" or ledger.sequence > 2


class Bundle(bytes):
    """Of which a failing test doesn't print every byte."""

    def __repr__(self) -> str:
        return f"<a bundle of {len(self)} bytes>"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    wheels = daemon_wheels(tmp_path_factory.mktemp("wheels"), "1.1.0")
    return Bundle(bundle_of(manifest_of(wheels, "1.1.0", 3), wheels))


def ticks_of(here: Path, bundle: bytes, faulty: bool) -> int:
    """How many moments there are."""
    world = World(here, set(), faulty)
    world.board.stage(bundle)
    world.run()
    return world.ticks


def ends_well(world: World, faulty: bool) -> None:
    places = world.places
    want = "1.0.0" if faulty else "1.1.0"
    assert places.linked("current") == places.linked("proven") == want
    assert places.job() is None
    assert world.board.staged() == []
    assert len(list(places.versions.iterdir())) == 2
    ledger = places.ledger()
    assert (ledger.sequence, len(ledger.bad)) == ((0, 1) if faulty else (3, 0))


@pytest.mark.parametrize("faulty", [False, True], ids=["good", "faulty"])
def test_the_power_goes_once_at_every_moment(tmp_path: Path, bundle: bytes, faulty: bool) -> None:
    moments = ticks_of(tmp_path / "whole", bundle, faulty)
    assert moments > 25
    for at in range(1, moments + 1):
        world = World(tmp_path / str(at), {at}, faulty)
        world.board.stage(bundle)
        assert world.run() == 2
        if not faulty:
            ends_well(world, False)
        else:
            assert world.places.linked("current") == "1.0.0"
            assert world.places.job() is None
            assert world.tried.count("1.1.0") <= 2


@settings(deadline=None, max_examples=60)
@given(cuts=st.sets(st.integers(1, 80), max_size=12), faulty=st.booleans())
def test_the_power_goes_again_and_again(
    tmp_path_factory: pytest.TempPathFactory, bundle: bytes, cuts: set[int], faulty: bool
) -> None:
    world = World(tmp_path_factory.mktemp("world"), cuts, faulty)
    world.board.stage(bundle)
    world.run()
    assert world.places.job() is None
    assert world.board.staged() == []
    current = world.places.linked("current")
    assert current == "1.0.0" if faulty else current in ("1.0.0", "1.1.0")
    assert current == world.places.linked("proven")


def test_a_release_that_takes_the_board_with_it_is_left(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path, set())

    def dies(version: str) -> str:
        raise Cut

    world.judge = dies  # type: ignore[method-assign]
    world.board.stage(bundle)
    world.run()
    assert world.tried == ["1.1.0"] * ENTERED_MAX + ["1.0.0"]
    ends_well(world, True)


def test_what_failed_is_not_tried_again_and_what_is_new_is(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path, set(), faulty=True)
    world.board.stage(bundle)
    world.run()
    world.faulty = False
    world.board.stage(bundle)
    world.run()
    assert world.tried == ["1.1.0", "1.0.0"]
    assert "failed here before" in world.places.ledger().last
    wheels = daemon_wheels(tmp_path / "w", "1.1.1")
    world.board.stage(bundle_of(manifest_of(wheels, "1.1.1", 4), wheels))
    world.run()
    assert world.places.linked("current") == "1.1.1"


def test_older_releases_are_refused_even_after_the_newer_one_is_gone(
    tmp_path: Path, bundle: bytes
) -> None:
    world = World(tmp_path, set())
    world.board.stage(bundle)
    world.run()
    wheels = daemon_wheels(tmp_path / "w", "1.0.5")
    world.board.stage(bundle_of(manifest_of(wheels, "1.0.5", 3), wheels))
    world.run()
    assert world.places.linked("current") == "1.1.0"
    assert "rollback" in world.places.ledger().last
    assert world.board.staged() == []


def test_of_several_the_newest_is_taken(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path, set())
    wheels = daemon_wheels(tmp_path / "w", "1.2.0")
    world.board.stage(bundle, "z.qflare")
    world.board.stage(bundle_of(manifest_of(wheels, "1.2.0", 9), wheels), "a.qflare")
    world.board.stage(b"no bundle", "b.qflare")
    world.run()
    assert world.places.linked("current") == "1.2.0"
    assert world.tried == ["1.2.0"]
    assert world.board.staged() == []
    assert {path.name for path in world.places.versions.iterdir()} == {"1.2.0", "1.0.0"}


def test_a_link_in_the_daemon_s_directory_leads_root_nowhere(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path, set())
    world.board.stage(bundle)
    precious = tmp_path / "precious.qflare"
    precious.write_bytes(bundle)
    staged = world.board.state / "update/staged"
    (staged / "next.qflare").unlink()
    (staged / "next.qflare").symlink_to(precious)
    world.run()
    assert precious.read_bytes() == bundle
    assert world.places.linked("current") == "1.0.0"
    assert world.board.staged() == []
    (staged / "dir.qflare/inside").mkdir(parents=True)
    world.run()
    assert world.board.staged() == []  # or systemd would start us for ever


@given(st.binary(max_size=3000))
def test_garbage_is_a_fault_and_nothing_else(data: bytes) -> None:
    for kind in (ReleaseManifest.parse, lambda d: peek_bundle(io.BytesIO(d))):
        with suppress(PeerFault):
            kind(data)


@settings(deadline=None)
@given(at=st.integers(0, 2**20), flip=st.integers(1, 255))
def test_no_changed_byte_passes(bundle: bytes, at: int, flip: int) -> None:
    data = bytearray(bundle)
    data[at % len(data)] ^= flip
    source = io.BytesIO(bytes(data))
    with pytest.raises(PeerFault):
        read_wheels(source, read_manifest(source, OWNER.verify_key))

"""New versions by the broker: who gets them, what is refused, and what a bad wire cannot do."""

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import events as ev
from edge_runtime.upgrade.fetch import SILENCE_MAX_S
from edge_runtime.upgrade.incoming import Incoming
from edge_runtime.upgrade.places import Bad, Ledger, Places
from qflare.effects import Publish
from qflare.envelope import sign
from qflare.faults import LocalFault
from qflare.host.bundle import peek_bundle
from qflare.host.files import write_atomic
from qflare.host.typed import encode
from qflare.messages import PartyState, Presence
from qflare.names import DeviceId, Digest, FleetId
from qflare.rollout import CHUNK, BundleOffer, Rollout
from qflare.topics import All, AllTopic, DownChunk, StateTopic, build
from tests.edge_lab import FLEET as LAB
from tests.edge_lab import Lab
from tests.rollout_kit import COORDINATOR, Board, Wire, World, release
from tests.upgrade_kit import FLEET, OWNER, STRANGER

NAME = "1.1.0-2.qflare"


class Bundle(bytes):
    """Of which a failing test doesn't print every byte."""

    def __repr__(self) -> str:
        return f"<a bundle of {len(self)} bytes>"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Bundle(release(tmp_path_factory.mktemp("wheels"), "1.1.0", 2))


def offer_of(data: bytes, permille: int = 1000) -> BundleOffer:
    return BundleOffer(Digest.of(data), len(data), permille)


def announce(board: Board, *offers: BundleOffer, key: Any = COORDINATOR) -> None:
    topic = build(AllTopic(FLEET, All.ROLLOUT))
    board.receiver.take(topic, sign(Rollout(FLEET, offers), key), board.world.now)


def forced(world: World, data: bytes) -> None:
    """On the shelf, whatever is wrong with it: as if somebody had taken the coordinator over."""
    digest = Digest.of(data)
    world.shelf.here.mkdir(exist_ok=True, mode=0o700)
    world.shelf.path(digest).write_bytes(data)
    one = {"bundle": str(digest), "size": len(data), "permille": 1000}
    said = {"version": "9.9.9", "sequence": 9, "kind": "any"}
    write_atomic(world.shelf.plan, json.dumps({"format": 1, "bundles": [one | said]}).encode())
    world.look()


# --- who gets it


def test_a_bundle_reaches_those_who_are_drawn_and_growing_takes_nobody_out(
    tmp_path: Path, bundle: bytes
) -> None:
    world = World(tmp_path)
    boards = [world.board(f"dev-{i}") for i in range(12)]
    world.stage(bundle, 400)
    world.run(60)
    first = {board.device for board in boards if board.staged()}
    assert 0 < len(first) < 12
    chunks = -(-len(bundle) // CHUNK)
    assert world.chunks == chunks * len(first)
    world.shelf.change("1.1.0", 1000)
    world.look()
    world.run(60)
    for board in boards:
        assert board.staged() == {NAME: bundle}
        assert board.words == ["update fetching 1.1.0", "update 1.1.0 is staged"]
        assert board.parts() == []
    assert world.chunks == chunks * 12


def test_the_share_is_what_was_asked_for() -> None:
    offer = offer_of(b"x", 50)
    names = [DeviceId.parse(f"pump-{i}") for i in range(4000)]
    reached = {name for name in names if offer.reaches(name)}
    assert 150 < len(reached) < 250
    wider = offer_of(b"x", 300)
    assert all(wider.reaches(name) for name in reached)
    another = offer_of(b"y", 50)  # another release has other first devices
    assert {name for name in names if another.reaches(name)} != reached


def test_the_coordinator_gives_nothing_to_who_is_not_drawn(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    boards = [world.board(f"dev-{i}") for i in range(12)]
    world.stage(bundle, 300)
    for board in boards:  # as if the broker had a word of its own
        announce(board, offer_of(bundle))
    world.run(60)
    for board in boards:
        assert bool(board.staged()) == offer_of(bundle, 300).reaches(board.device)


def test_who_is_not_registered_gets_nothing(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    world.registry.refuse(board.device, None)  # type: ignore[arg-type]
    world.stage(bundle)
    world.run(60)
    assert world.chunks == 0


def test_stopping_ends_it_and_leaves_nothing_behind(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    world.stage(bundle)
    world.until(board.parts)
    world.shelf.change("1.1.0", 0)
    world.look()
    assert world.retained is not None
    assert world.retained[1] == b""
    world.run(60)
    assert (board.parts(), board.staged()) == ([], {})
    assert [path.name for path in world.shelf.here.iterdir()] == ["rollout.json"]
    sent = world.chunks
    world.run(60)
    assert world.chunks == sent


def test_a_device_that_is_told_so_fetches_nothing(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    board.start_anew(fetch=False)
    world.stage(bundle)
    world.run(60)
    assert (board.asked, board.words) == (0, [])


def test_each_kind_of_device_finds_its_own(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    world.stage(release(tmp_path / "w", "1.1.0", 2, python="3.99"))
    world.stage(bundle)
    world.run(60)
    assert board.staged() == {NAME: bundle}
    assert world.chunks == -(-len(bundle) // CHUNK) + 1  # and one to see that it is another's


# --- cut off


def test_a_restart_goes_on_where_it_was(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    world.stage(bundle)
    for chunk in range(1, 5):
        world.until(lambda n=chunk: board.parts() and board.parts()[0].stat().st_size >= n * CHUNK)
        world.wire.waiting.clear()
        with board.parts()[0].open("ab") as file:
            file.write(b"torn")  # of a chunk that didn't get whole
        board.start_anew()
        world.start_anew()
        world.look()
    world.until(board.staged)
    assert board.staged() == {NAME: bundle}
    assert world.chunks <= -(-len(bundle) // CHUNK) + 4 * 4


@settings(deadline=None, max_examples=25)
@given(
    lost=st.floats(0, 0.6), doubled=st.floats(0, 1), mixed=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_a_wire_that_loses_doubles_and_mixes_only_takes_longer(
    tmp_path_factory: pytest.TempPathFactory,
    bundle: bytes,
    lost: float,
    doubled: float,
    mixed: float,
    seed: int,
) -> None:
    world = World(tmp_path_factory.mktemp("world"), Wire(lost, doubled, mixed))
    world.wire.rng.seed(seed)
    board = world.board("dev-1")
    world.stage(bundle)
    world.until(board.staged, 100 * SILENCE_MAX_S)
    assert board.staged() == {NAME: bundle}


def test_quiet_hours_and_a_bandwidth_cap_hold(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1", rate=20_000)
    board.quiet = "quiet hours"
    world.stage(bundle)
    world.run(120)
    assert world.chunks == 0
    board.quiet = ""
    began = world.now
    world.until(board.staged)
    assert world.now - began > 0.8 * (len(bundle) - CHUNK) / 20_000


def test_what_was_said_before_the_manifest_came_is_kept(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    board.key = None
    world.stage(bundle)
    world.run(10)
    assert board.asked == 0
    board.key = COORDINATOR.verify_key
    world.until(board.staged)


def test_a_device_that_is_idle_says_nothing(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    world.stage(bundle)
    world.until(board.staged)
    asked = board.asked
    world.run(3600)
    board.start_anew()
    assert world.retained is not None
    board.receiver.take(*world.retained, world.now)
    world.run(3600)
    assert board.asked == asked


def test_a_coordinator_that_does_not_answer_is_asked_ever_more_rarely(
    tmp_path: Path, bundle: bytes
) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    announce(board, offer_of(bundle))
    world.run(24 * 3600)
    assert board.asked < 24 * 3600 / SILENCE_MAX_S + 10


# --- refused


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"owner": STRANGER}, "bad_signature"),
        ({"fleet": FleetId.parse("other")}, "for fleet other"),
        ({"python": "3.99"}, "for Python 3.99"),
        ({"sequence": 1}, "rollback"),
    ],
)
def test_what_the_owner_did_not_sign_for_this_device_costs_one_chunk(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    Places(board.opt).prepare()
    Places(board.opt).write_ledger(Ledger(sequence=1))
    sequence = changes.pop("sequence", 2)
    forced(world, release(tmp_path / "w", "1.1.0", sequence, **changes))
    world.run(60)
    assert why in board.words[-1]
    assert board.words[-1].startswith("update refused")
    board.start_anew()
    assert world.retained is not None
    board.receiver.take(*world.retained, world.now)
    world.run(3600)
    assert world.chunks == 1
    assert (board.parts(), board.staged()) == ([], {})


def test_what_failed_here_before_is_not_fetched_again(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    places = Places(board.opt)
    places.prepare()
    digest = str(peek_bundle(BytesIO(bundle)).digest)
    places.write_ledger(Ledger(bad=(Bad(digest=digest, version="1.1.0", why="it hung"),)))
    world.stage(bundle)
    world.run(60)
    assert "1.1.0 failed here before: it hung" in board.words[-1]
    assert world.chunks == 1


def test_garbage_for_files_and_words_is_refused(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    forced(world, os.urandom(700_000))
    world.run(10)
    assert "refused" in board.words[-1]
    topic = build(AllTopic(FLEET, All.ROLLOUT))
    for payload in (os.urandom(100), b"\0", sign(Rollout(FLEET, ()), STRANGER)):
        assert board.receiver.take(topic, payload, world.now)
        assert board.notes[-1]["event"] == "refused"
    announce(board, offer_of(bundle), key=STRANGER)
    asked = board.asked
    world.run(10)
    assert board.asked == asked


def test_more_than_its_wheels_is_not_fetched(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    forced(world, bundle + bytes(3_000_000))
    world.run(60)
    assert "larger than its wheels" in board.words[-1]
    assert world.chunks == 1


def test_a_damaged_chunk_spoils_one_attempt_and_nothing_else(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    damage = [True]
    honest = world.service.read_chunk

    def read(blob: Digest, index: int) -> bytes | None:
        data = honest(blob, index)
        if index == 3 and data and damage:
            damage.clear()
            return bytes(len(data))
        return data

    world.service.read_chunk = read  # type: ignore[method-assign]
    world.stage(bundle)
    world.until(lambda: any("damaged" in word for word in board.words))
    assert (board.parts(), board.staged()) == ([], {})
    world.until(board.staged)
    assert board.staged() == {NAME: bundle}


def test_chunks_that_nobody_asked_for_are_left_alone(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    digest = Digest.of(bundle)

    def chunk(index: int, data: bytes) -> bool:
        topic = build(DownChunk(FLEET, board.device, digest, index))
        return board.receiver.take(topic, data, world.now)

    assert not chunk(0, bundle[:CHUNK])  # nothing is wanted: the machine may know it
    announce(board, offer_of(bundle))
    board.tick()
    assert chunk(1, bundle[CHUNK : 2 * CHUNK])
    assert chunk(0, b"short")
    assert chunk(2**20 - 1, b"")
    assert board.parts() == []
    assert board.notes[-1]["event"] == "refused"
    assert chunk(0, bundle[:CHUNK])
    assert board.parts()[0].stat().st_size == CHUNK


@pytest.mark.parametrize("failure", ["write", "space", "stage"])
def test_a_disk_that_refuses_is_tried_again_later(
    tmp_path: Path, bundle: bytes, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    full = [True]

    def refusing(real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if full:
                raise error
            return real(*args)

        return call

    name = {"write": "write", "space": "look", "stage": "stage"}[failure]
    error = LocalFault("make room") if failure == "space" else OSError(28, "No space left")
    monkeypatch.setattr(Incoming, name, refusing(getattr(Incoming, name), error))
    world.stage(bundle)
    world.run(3600)
    assert "update waits" in board.words[-1]
    assert board.staged() == {}
    tried = board.asked
    world.run(6 * 3600)
    assert board.asked - tried < 30
    full.clear()
    world.until(board.staged, 24 * 3600)
    assert board.staged() == {NAME: bundle}


def test_no_room_is_seen_before_it_is_needed(
    tmp_path: Path, bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.upgrade.incoming._free", lambda _: 10_000_000)
    world = World(tmp_path)
    board = world.board("dev-1")
    world.stage(bundle)
    world.run(30)
    assert "make room" in board.words[-1]
    assert world.chunks == 1


# --- what the operator hears


def test_what_the_updater_says_is_passed_on(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    board = world.board("dev-1")
    places = Places(board.opt)
    places.prepare()
    places.write_ledger(Ledger(last="1.0.9: it hung"))
    world.stage(bundle)
    world.until(board.staged)
    assert board.words[0] == "update 1.0.9: it hung"
    write_atomic(places.update / "ledger.json", encode(Ledger(last="1.1.0: it hung, too")))
    world.run(60)
    assert board.words[-1] == "update 1.1.0: it hung, too"


def test_devices_words_reach_the_operator(tmp_path: Path, bundle: bytes) -> None:
    world = World(tmp_path)
    world.stage(bundle)
    state = PartyState(Presence.ONLINE, 1, "1.0.0", "update refused: rollback")
    topic = build(StateTopic(FLEET, DeviceId.parse("dev-1")))
    assert not world.service.take(topic, state.to_bytes())  # the machine wants it, too
    assert not world.service.take(topic, b"garbage")
    world.shelf.tell(world.service.devices)
    assert world.shelf.told()["dev-1"].detail == "update refused: rollback"


def test_words_on_updates_stand_beside_the_reason_for_a_pause() -> None:
    machine = Lab().machine()
    assert machine.coordinator_key is None

    def detail(event: ev.Event) -> str:
        (said,) = (e for e in machine.handle(event, 1.0) if isinstance(e, Publish) and e.retain)
        return PartyState.parse(said.payload).detail

    assert detail(ev.LinkUp(256 * 1024)) == ""
    assert detail(ev.Updating("update 1.1.0 is staged")) == "update 1.1.0 is staged"
    assert detail(ev.Held("too hot")) == "too hot; update 1.1.0 is staged"
    assert detail(ev.Updating("")) == "too hot"
    machine.handle(
        ev.Received(build(AllTopic(LAB, All.MANIFEST)), Lab().signed_manifest(), True), 2
    )
    assert machine.coordinator_key == Lab().coordinator.verify_key


# --- the operator's commands


@pytest.fixture
def operator(tmp_path: Path) -> Callable[..., int]:
    from qflare.cli import main
    from tests.coordinator_home import found
    from tests.unit.coordinator_rig import World as Rig

    config = found(tmp_path / "home", Rig(), "mqtt://127.0.0.1:1", "x")
    config.write_text(config.read_text().replace('fleet = "demo"', f'fleet = "{FLEET}"'))
    (tmp_path / "home/owner_key").write_bytes(OWNER.verify_key.raw)
    (tmp_path / "home/state").mkdir()
    return lambda *words: main(["rollout", *words, "--config", str(config)])


def test_an_operator_stages_widens_and_stops(
    tmp_path: Path, bundle: bytes, operator: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.qflare"
    path.write_bytes(bundle)

    def shown() -> Any:
        capsys.readouterr()
        assert operator("show", "--json") == 0
        return json.loads(capsys.readouterr().out)

    assert shown()["bundles"] == []
    assert operator("stage", str(path), "--percent", "2.5") == 0
    assert "2.5 % of the devices" in capsys.readouterr().out
    (one,) = shown()["bundles"]
    assert (one["version"], one["sequence"], one["permille"]) == ("1.1.0", 2, 25)
    newer = release(tmp_path / "w", "1.2.0", 3)
    path.write_bytes(newer)
    assert operator("stage", str(path)) == 0  # in the place of the one before
    (one,) = shown()["bundles"]
    assert (one["version"], one["permille"], one["size"]) == ("1.2.0", 1000, len(newer))
    assert operator("widen", "1.2.0", "--percent", "50") == 0
    assert shown()["bundles"][0]["permille"] == 500
    assert operator("widen", "1.1.0") == 1
    assert operator("widen", "1.2.0", "--percent", "0") == 1
    assert operator("stop", "1.2.0") == 0
    assert shown()["bundles"] == []
    assert operator("show") == 0


def test_what_no_device_would_take_is_not_staged(
    tmp_path: Path, operator: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.qflare"
    good = release(tmp_path / "w", "1.1.0", 2)
    for data, why in (
        (release(tmp_path / "w", "1.1.0", 2, owner=STRANGER), "bad_signature"),
        (release(tmp_path / "w", "1.1.0", 2, fleet=FleetId.parse("other")), "for fleet other"),
        (good[:-6000], "too early"),
        (os.urandom(3000), "not a release bundle"),
    ):
        path.write_bytes(data)
        assert operator("stage", str(path)) == 1
        assert why in capsys.readouterr().err
    assert operator("stage", str(tmp_path / "none")) == 1

"""Killed after every single effect, and started again from its disk: the same rounds come out."""

from pathlib import Path

import pytest

from coordinator.database.store import connect
from coordinator.export import _all_rounds, _round
from qflare.messages import ReceiptStatus
from tests.unit.coordinator_rig import Rig, World

_WORLD = World()


def check_outcome(rig: Rig) -> None:
    """Two releases, each with every device's one update, and nobody waits for a receipt."""
    assert [len(counted) for counted in rig.enclave.history] == [3, 3]
    for device in rig.devices.values():
        assert not device.outbox
        for round_, update in device.sent:
            said = {receipt.status for receipt in device.receipts[update]}
            assert said == {ReceiptStatus.ACCEPTED}, f"round {round_}"
            assert sum(update == counted.get(device.name) for counted in rig.enclave.history) == 1
    assert rig.store is not None
    snapshot = rig.store.load()
    assert snapshot.released_count == 2
    assert snapshot.abandoned_count == 0
    assert len(snapshot.leaves) == 2
    assert {u.status for u in snapshot.updates} == {"admitted"}
    assert not list((rig.directory / "spool").iterdir())


def test_undisturbed(tmp_path: Path) -> None:
    rig = Rig(_WORLD, tmp_path)
    rig.run(rig.done)
    check_outcome(rig)
    engine = connect(tmp_path / "coordinator.db", read_only=True)
    with engine.begin() as connection:
        rounds = [_round(connection, row) for row in connection.execute(_all_rounds)]
    assert [r["admitted"] for r in rounds] == [3, 3]
    assert all(r["published_at"] >= r["released_at"] for r in rounds)
    assert [r["validation"]["examples"] for r in rounds] == [24, 24]  # eight of each device
    assert [r["validation"]["recall_after"] for r in rounds] == [[0.666667, 0.5]] * 2


def _effects_of_a_run(directory: Path) -> int:
    rig = Rig(_WORLD, directory)
    rig.run(rig.done)
    return rig.performed


@pytest.mark.slow
def test_killed_after_every_effect(tmp_path: Path) -> None:
    count = _effects_of_a_run(tmp_path / "whole")
    for at in range(1, count + 1):
        rig = Rig(_WORLD, tmp_path / str(at))
        rig.kill_after = at
        rig.run(rig.done)
        assert rig.kills == 1, at
        check_outcome(rig)


def test_killed_again_and_again(tmp_path: Path) -> None:
    rig = Rig(_WORLD, tmp_path)
    rig.kill_after = 2
    rig.lives.extend(range(3, 30))
    rig.run(rig.done)
    assert rig.kills > 3
    check_outcome(rig)

"""`qflare device audit` on a whole device's store: honest, tampered with, of a round that lied."""

import json
import sqlite3
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import events as ev
from edge_runtime.audit_command import run
from edge_runtime.store import Store
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault
from tests.edge_lab import DEVICE, FLEET
from tests.edge_pilot import Pilot


class Audited:
    """A pilot whose effects a real store performs, and a device's folder around it."""

    def __init__(self, home: Path) -> None:
        self.home, self.pilot = home, Pilot()
        self.state = home / "state"
        lab = self.pilot.lab
        files = {"owner.key": lab.owner.verify_key.raw, "device.seed": lab.key.to_seed()}
        for name, content in (files | {"device.der": lab.der}).items():
            (home / name).write_bytes(content)
            (home / name).chmod(0o600)
        (home / "edge.toml").write_text(
            f"""[device]
fleet = "{FLEET}"
name = "{DEVICE}"
state_dir = "state"
key = "device.seed"
certificate = "device.der"
owner_key = "owner.key"
[broker]
url = "mqtt://127.0.0.1"
[data]
kind = "npz"
path = "samples.npz"
"""
        )

    def keep(self) -> Store:
        """Everything that the device did, on a real disk; the store stays open."""
        store = Store(self.state)
        for effect in self.pilot.done:
            match effect:
                case ev.SaveMemory(memory):
                    store.save_memory(memory)
                case ev.SaveManifest():
                    store.save_manifest(effect)
                case ev.Commit():
                    store.commit(effect)
                case ev.Settle():
                    store.settle(effect)
        return store

    def audit(self, capsys: Any) -> tuple[int, list[dict[str, Any]]]:
        code = run(Namespace(config=self.home / "edge.toml", json=True))
        said = json.loads(capsys.readouterr().out)
        assert said["well"] == (code == 0)
        return code, said["rounds"]

    def change(self, sql: str, *values: object) -> None:
        with sqlite3.connect(self.state / "device.sqlite") as db:
            assert db.execute(sql, values).rowcount == 1
        db.close()


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    made = Audited(tmp_path)
    made.pilot.connect()
    for round_ in (1, 2, 5):
        made.pilot.play_round(round_)
    return made


def test_every_update_counted_once_while_the_daemon_runs(audited: Audited, capsys: Any) -> None:
    store = audited.keep()
    code, rounds = audited.audit(capsys)
    store.close()
    assert code == 0
    assert [(it["round"], it["state"]) for it in rounds] == [
        (1, "counted"),
        (2, "counted"),
        (5, "counted"),
    ]
    assert run(Namespace(config=audited.home / "edge.toml", json=False)) == 0
    assert "3 rounds, 3 updates counted once, 0 in doubt" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["accepted", "release", "counted"])
def test_a_proof_that_is_missing_or_changed(audited: Audited, capsys: Any, kind: str) -> None:
    audited.keep().close()
    name = f"audit/2/{kind}"
    with sqlite3.connect(audited.state / "device.sqlite") as db:
        ((good,),) = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchall()
    db.close()
    audited.change("DELETE FROM facts WHERE name = ?", name)
    code, rounds = audited.audit(capsys)
    assert (code, rounds[1]["state"]) == (1, "wrong")
    assert f"({kind}) is missing" in rounds[1]["says"]
    for at in (len(good) // 3, len(good) - 1):
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        audited.change("REPLACE INTO facts (name, value) VALUES (?, ?)", name, bad)
        code, rounds = audited.audit(capsys)
        assert (code, [it["well"] for it in rounds]) == (1, [True, False, True])


def test_another_rounds_proofs(audited: Audited, capsys: Any) -> None:
    audited.keep().close()
    for kind in ("accepted", "release", "counted"):
        sql = "UPDATE facts SET value = (SELECT value FROM facts WHERE name = ?) WHERE name = ?"
        audited.change(sql, f"audit/1/{kind}", f"audit/2/{kind}")
    code, rounds = audited.audit(capsys)
    assert (code, rounds[1]["state"]) == (1, "wrong")


def test_an_update_that_the_journal_says_is_another(audited: Audited, capsys: Any) -> None:
    audited.keep().close()
    audited.change("UPDATE journal SET digest = ? WHERE round = 5", bytes(32))
    code, rounds = audited.audit(capsys)
    assert (code, rounds[2]["state"]) == (1, "wrong")


def test_accepted_and_never_proven(audited: Audited, capsys: Any) -> None:
    """The coordinator took it, the round was released, and no proof came: as if left out."""
    pilot = audited.pilot
    before = len(pilot.done)
    pilot.play_round(6)
    pilot.done = pilot.done[:before] + [it for it in pilot.done[before:] if not _proves(it)]
    audited.keep().close()
    code, rounds = audited.audit(capsys)
    assert (code, rounds[3]["state"]) == (1, "unproven")


def _proves(effect: ev.Effect) -> bool:
    return isinstance(effect, ev.Settle) and any(kind == "counted" for kind, _ in effect.proofs)


def test_another_owner(audited: Audited, capsys: Any) -> None:
    audited.keep().close()
    other = SigningKey.generate(DEFAULT).verify_key.raw
    (audited.home / "owner.key").write_bytes(other)
    with pytest.raises(LocalFault, match="manifest"):
        audited.audit(capsys)


def test_proofs_are_forgotten_with_their_round(audited: Audited) -> None:
    for round_ in range(6, 30):
        audited.pilot.play_round(round_)
    store = audited.keep()
    names = store._db.query("SELECT name FROM facts WHERE name GLOB 'audit/*'")
    rounds = {int(name.split("/")[1]) for (name,) in names}
    assert len(rounds) == 16
    assert min(rounds) == 14
    store.close()

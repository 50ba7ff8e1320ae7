"""Encryption at rest: nothing private in the raw bytes, no silent new start, keys that change."""

import os
import secrets
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.events import Commit, SaveManifest
from edge_runtime.memory import Memory
from edge_runtime.storage.opening import StorageSection, open_store, purpose_key
from edge_runtime.storage.sealing import SEAL, OwnerKey, OwnerKeys, read_seal
from edge_runtime.storage.vault import Damaged, DataKey, Vault
from edge_runtime.store import Store
from qflare.faults import LocalFault
from qflare.host.config import ConfigFault
from tests.unit.test_edge_store import commit

SECRETS = (b"PRIVATE-RESIDUAL", b"PRIVATE-PERSONAL", b"PRIVATE-UPDATE..", b"PRIVATE-MANIFEST")


def telling(round_: int) -> Commit:
    """A commit whose private parts are easy to find."""
    residual, personal, update, _ = (text * 40 for text in SECRETS)
    made = commit(round_)
    return Commit(replace(made.entry, data=update), made.journal, residual, made.memory, personal)


def key(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(secrets.token_bytes(32))
    return path


def fill(state: Path, section: StorageSection, environ: Mapping[str, str] | None = None) -> None:
    store = open_store(state, section, environ or {})
    store.load()
    store.save_manifest(SaveManifest(SECRETS[3] * 40, Memory()))
    store.commit(telling(1))
    store.close()


def raw(state: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(state.rglob("*")) if path.is_file())


def read_back(state: Path, section: StorageSection) -> None:
    store = open_store(state, section, {})
    past = store.load()
    assert store.findings == []
    assert past.memory == telling(1).memory
    assert past.outbox == (telling(1).entry,)
    assert store.residual() == telling(1).residual
    assert store.personal() == telling(1).personal
    assert past.manifest == SECRETS[3] * 40
    store.close()


def test_without_a_key_it_could_be_read(tmp_path: Path) -> None:
    """So that the next test means something."""
    fill(tmp_path / "state", StorageSection())
    assert all(text in raw(tmp_path / "state") for text in SECRETS)


def test_with_a_key_nothing_private_is_in_the_raw_bytes(tmp_path: Path) -> None:
    section = StorageSection(key_file=key(tmp_path, "key"))
    state = tmp_path / "state"
    fill(state, section)
    assert not any(text in raw(state) for text in SECRETS)
    assert (tmp_path / "key").read_bytes() not in raw(state)
    read_back(state, section)
    store = open_store(state, section, {})  # also while it is open, in the log
    store.load()
    store.commit(telling(2))
    assert not any(text in raw(state) for text in SECRETS)
    store.close()


def test_turning_encryption_on_leaves_nothing_behind(tmp_path: Path) -> None:
    state = tmp_path / "state"
    fill(state, StorageSection())
    section = StorageSection(key_file=key(tmp_path, "key"))
    read_back(state, section)
    assert not any(text in raw(state) for text in SECRETS)
    with pytest.raises(ConfigFault, match="key is not here"):
        open_store(state, StorageSection(), {})


def test_a_database_that_was_put_aside_is_not_left_in_the_clear(tmp_path: Path) -> None:
    state = tmp_path / "state"
    fill(state, StorageSection())
    database = state / "device.sqlite"
    database.write_bytes(bytes(100) + database.read_bytes()[100:])
    open_store(state, StorageSection(), {}).close()
    assert any(text in raw(state / "damaged") for text in SECRETS)
    open_store(state, StorageSection(key_file=key(tmp_path, "key")), {}).close()
    assert not any(text in raw(state) for text in SECRETS)


def test_a_key_that_is_gone_or_another_one_is_refused(tmp_path: Path) -> None:
    state, section = tmp_path / "state", StorageSection(key_file=key(tmp_path, "key"))
    fill(state, section)
    before = raw(state)
    with pytest.raises(ConfigFault, match="key is not here") as absent:
        open_store(state, StorageSection(), {})
    assert absent.value.exit_code == 78
    with pytest.raises(ConfigFault, match="another key"):
        open_store(state, StorageSection(key_file=key(tmp_path, "other")), {})
    (tmp_path / "key").rename(tmp_path / "moved")
    with pytest.raises(ConfigFault, match="put it back"):
        open_store(state, section, {})
    assert raw(state) == before
    read_back(state, StorageSection(key_file=tmp_path / "moved"))


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"zz" * 32, b"\xff" * 64])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigFault, match="32 random bytes"):
        OwnerKey.read(tmp_path / "key")


def test_a_key_may_be_hexadecimal(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ab" * 32 + "\n")
    assert OwnerKey.read(tmp_path / "key").secret == b"\xab" * 32


def test_the_key_may_be_a_credential(tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    key(tmp_path / "credentials", "storage.key")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    fill(tmp_path / "state", StorageSection(), environ)
    assert not any(text in raw(tmp_path / "state") for text in SECRETS)
    read_back(tmp_path / "state", StorageSection(key_file=tmp_path / "credentials/storage.key"))


def test_another_key_takes_over(tmp_path: Path) -> None:
    state, old = tmp_path / "state", key(tmp_path, "old")
    fill(state, StorageSection(key_file=old))
    ring = purpose_key(state, StorageSection(key_file=old), {}, "ring")
    before = read_seal(state, OwnerKeys(OwnerKey.read(old)))
    assert before is not None
    new = key(tmp_path, "new")
    read_back(state, StorageSection(key_file=new, previous_key_file=old))
    read_back(state, StorageSection(key_file=new))
    assert purpose_key(state, StorageSection(key_file=new), {}, "ring") == ring
    with pytest.raises(ConfigFault, match="another key"):
        open_store(state, StorageSection(key_file=old), {})
    after = read_seal(state, OwnerKeys(OwnerKey.read(new)))
    assert after is not None
    assert after.whole
    old_names = {k.name for k in before._content.keys}
    assert old_names.isdisjoint(k.name for k in after._content.keys)
    assert not any(bytes.fromhex(name) in raw(state) for name in old_names)


class _Cut(BaseException):
    pass


@pytest.mark.parametrize("at", ["wrap_again", "compact", "reset", "finish"])
@pytest.mark.parametrize("start", ["plain", "old key"])
def test_a_change_of_keys_may_be_cut_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, start: str
) -> None:
    state, old, new = tmp_path / "state", key(tmp_path, "old"), key(tmp_path, "new")
    fill(state, StorageSection() if start == "plain" else StorageSection(key_file=old))
    section = StorageSection(key_file=new, previous_key_file=None if start == "plain" else old)

    def cut(*_: object) -> None:
        raise _Cut

    where = {
        "wrap_again": "rows.Rows.wrap_again",
        "compact": "database.Database.compact",
        "reset": "guard.Guard.reset",
        "finish": "sealing.Seal.finish",
    }
    with monkeypatch.context() as patch:
        patch.setattr(f"edge_runtime.storage.{where[at]}", cut)
        with pytest.raises(_Cut):
            open_store(state, section, {})
    read_back(state, StorageSection(key_file=new))
    assert not any(text in raw(state) for text in SECRETS)


def test_rot_in_an_encrypted_database_is_survived_too(tmp_path: Path) -> None:
    state, section = tmp_path / "state", StorageSection(key_file=key(tmp_path, "key"))
    fill(state, section)
    (state / "device.sqlite").write_bytes(b"rot" * 4000)
    store = open_store(state, section, {})
    assert store.load().memory == telling(1).memory
    store.close()


def test_a_damaged_seal_is_named(tmp_path: Path) -> None:
    state, section = tmp_path / "state", StorageSection(key_file=key(tmp_path, "key"))
    fill(state, section)
    for content in (b"", b"{}", b"[]", (state / SEAL).read_bytes()[:-20]):
        (state / SEAL).write_bytes(content)
        with pytest.raises(LocalFault, match="damaged"):
            open_store(state, section, {})


@given(content=st.binary(max_size=300))
def test_garbage_is_no_seal(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("seal")
    (folder / SEAL).write_bytes(content)
    with pytest.raises(LocalFault):
        read_seal(folder, OwnerKeys(OwnerKey(bytes(32), "test")))


@given(place=st.binary(min_size=1, max_size=40), data=st.binary(max_size=200), bad=st.binary())
def test_only_what_was_encrypted_for_a_place_is_read(place: bytes, data: bytes, bad: bytes) -> None:
    mine, other = DataKey.fresh(), DataKey.fresh()
    vault = Vault([mine])
    wrapped = vault.wrap(place, data)
    assert vault.unwrap(place, wrapped) == data
    assert Vault([other, mine]).unwrap(place, wrapped) == data
    for reader, at, value in (
        (vault, place + b"/", wrapped),
        (vault, place, bad),
        (vault, place, wrapped[:-1]),
        (vault, place, Vault().wrap(place, data)),
        (Vault([other]), place, wrapped),
        (Vault(), place, wrapped),
    ):
        with pytest.raises(Damaged):
            reader.unwrap(at, value)


def test_a_purpose_key_needs_a_key_and_differs_by_purpose(tmp_path: Path) -> None:
    state = tmp_path / "state"
    Store(state).close()
    assert purpose_key(state, StorageSection(), {}, "ring") is None
    section = StorageSection(key_file=key(tmp_path, "key"))
    open_store(state, section, os.environ).close()
    ring, other = (purpose_key(state, section, {}, name) for name in ("ring", "other"))
    assert ring is not None
    assert len(ring) == 32
    assert ring != other


def test_a_key_holds_before_the_daemon_has_ever_started(tmp_path: Path) -> None:
    """Whoever collects samples may be up first; none of them is written in the clear."""
    state, section = tmp_path / "state", StorageSection(key_file=key(tmp_path, "key"))
    ring = purpose_key(state, section, {}, "ring", create=True)
    assert ring is not None
    assert purpose_key(state, section, {}, "ring") == ring
    fill(state, section)
    assert purpose_key(state, section, {}, "ring", create=True) == ring
    assert not any(text in raw(state) for text in SECRETS)
    with pytest.raises(ConfigFault, match="key is not here"):
        purpose_key(state, StorageSection(), {}, "ring", create=True)


def test_a_key_that_the_collector_meets_first_still_makes_the_daemon_encrypt_all(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    fill(state, StorageSection())
    section = StorageSection(key_file=key(tmp_path, "key"))
    assert purpose_key(state, section, {}, "ring", create=True) is not None
    read_back(state, section)
    assert not any(text in raw(state) for text in SECRETS)


def test_daemon_and_collector_start_at_once_and_agree(tmp_path: Path) -> None:
    section, found = StorageSection(key_file=key(tmp_path, "key")), []
    for number in range(20):
        state = tmp_path / f"state-{number}"
        state.mkdir(mode=0o700)
        both = threading.Barrier(2)

        def collector(state: Path = state, both: threading.Barrier = both) -> None:
            both.wait()
            found.append(purpose_key(state, section, {}, "ring", create=True))

        thread = threading.Thread(target=collector)
        thread.start()
        both.wait()
        open_store(state, section, {}).close()
        thread.join()
        assert found.pop() == purpose_key(state, section, {}, "ring")


def test_no_key_is_made_for_a_device_that_is_being_erased(tmp_path: Path) -> None:
    (tmp_path / "forgetting").touch()
    for section in (StorageSection(), StorageSection(key_file=key(tmp_path, "key"))):
        with pytest.raises(ConfigFault, match="half erased"):
            purpose_key(tmp_path, section, {}, "ring", create=True)
    assert not (tmp_path / SEAL).exists()

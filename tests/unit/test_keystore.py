"""Keys in files: forms, passphrases, modes, and moves that are cut off anywhere."""

import json
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.faults import LocalFault
from qflare.host import files
from qflare.host.keystore import form, store, tpm_device
from qflare.host.keystore.asking import asker, credential
from qflare.host.keystore.form import Kind
from qflare.host.keystore.moving import finish, move, unfinished
from qflare.host.keystore.pcrs import parse_approvals, parse_state, selection
from qflare.host.keystore.settings import KeysSection, load_seed, sealers
from qflare.host.keystore.store import KeyStore, read_form
from tests.keys_kit import NAME, PASSPHRASE, plain, quick, store_of

# --- parsers


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: ("{" + t).encode()))
def test_garbage_is_a_fault(data: bytes) -> None:
    for parse in (form.parse_form, parse_state, parse_approvals):
        try:
            parse(data)
        except LocalFault as fault:
            assert str(fault)  # noqa: PT017


@given(
    st.dictionaries(
        st.sampled_from(["qflare_key", "name", "log_n", "salt", "sealed", "token", "label", "x"]),
        st.sampled_from(["file", "hsm", "AA==", "AB==", "", 14, 21, None, [], 1.5]),
    )
)
def test_objects_that_are_nearly_right(tree: dict[str, Any]) -> None:
    data = json.dumps(tree).encode()
    try:
        found = form.parse_form(data)
    except LocalFault:
        return
    assert len(data) in form.SEEDS or isinstance(found, form.ByPassphrase | form.ByToken)


@given(
    st.binary(max_size=120)
    | st.binary(max_size=60).map(lambda rest: bytes(4) + struct.pack(">IH", 1, 11) + rest)
)
def test_a_tpm_s_reply_is_values_or_a_fault(reply: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpm_device, "command", lambda *_: reply)
        try:
            state = tpm_device.read_state("/dev/tpmrm0", (0, 7))
        except LocalFault as fault:
            assert "doesn't tell PCR" in str(fault)  # noqa: PT017
        else:
            assert state.numbers == (0, 7)


@given(st.binary(max_size=40))
def test_a_tpm_s_list_of_handles_may_be_anything(reply: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpm_device, "command", lambda *_: reply)
        assert len(tpm_device.volatile("/dev/tpm0")) <= 8


def test_a_tpm_that_tells_registers_piece_by_piece() -> None:
    """TPM2_PCR_Read gives eight at most, and says which."""

    def command(device: str, code: int, body: bytes) -> bytes:
        asked = [n for n in range(24) if body[7 + n // 8] >> n % 8 & 1][:8]
        digests = b"".join(struct.pack(">H", 32) + bytes([n]) * 32 for n in asked)
        return bytes(4) + selection(asked) + struct.pack(">I", len(asked)) + digests

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpm_device, "command", command)
        state = tpm_device.read_state("/dev/tpmrm0", tuple(range(20)))
    assert [pcr.value for pcr in state.pcrs] == [f"{n:02x}" * 32 for n in range(20)]


def test_a_credential_of_systemd_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd opened it already, so it lies there in clear whatever `store` says."""
    seed = plain(tmp_path)
    (tmp_path / NAME).chmod(0o440)
    section = KeysSection(store="tpm")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_seed(Path(NAME), section, sealers(section)) == seed
    (tmp_path / NAME).chmod(0o400)
    with pytest.raises(LocalFault, match="is a plain seed"):
        load_seed(tmp_path / NAME, section, sealers(section))


@given(st.binary())
def test_base64_has_one_spelling(data: bytes) -> None:
    text = form.base64_of(data)
    assert form.unbase64(text) == data
    for other in (text + "=", " " + text, text + "\n"):
        with pytest.raises(ValueError, match="base64"):
            form.unbase64(other)


@pytest.mark.parametrize("text", ["AB==", "A===", "é"])
def test_base64_that_decodes_elsewhere(text: str) -> None:
    with pytest.raises(ValueError, match=r"base64|ascii|ASCII"):
        form.unbase64(text)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a" * 65, "a b", "é"])
def test_what_can_t_be_a_name(tmp_path: Path, name: str) -> None:
    for act in (
        lambda keys: keys.keep(name, bytes(32)),
        lambda keys: keys.load(name),
        lambda keys: keys.forget(name),
    ):
        with pytest.raises(LocalFault, match="can't be a key's name"):
            act(store_of(tmp_path))


# --- under a passphrase


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(form.SEEDS), st.data())
def test_what_is_kept_is_loaded(length: int, data: st.DataObject) -> None:
    seed = data.draw(st.binary(min_size=length, max_size=length))
    sealed = quick().seal(NAME, seed)
    assert seed not in sealed
    assert quick().open(NAME, sealed) == seed
    assert quick().seal(NAME, seed) != sealed


def test_a_store_keeps_loads_and_forgets(tmp_path: Path) -> None:
    keys = store_of(tmp_path, quick())
    keys.keep(NAME, b"s" * 64)
    path = tmp_path / NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert isinstance(read_form(path), form.ByPassphrase)
    assert keys.load(NAME) == b"s" * 64
    with pytest.raises(LocalFault, match="there already"):
        keys.keep(NAME, bytes(32))
    assert keys.load(NAME) == b"s" * 64
    keys.forget(NAME)
    assert list(tmp_path.iterdir()) == []
    keys.forget(NAME)
    with pytest.raises(LocalFault, match="is gone; restore"):
        keys.load(NAME)
    with pytest.raises(LocalFault, match="are no seed"):
        keys.keep(NAME, b"password")
    with pytest.raises(LocalFault, match="make it"):
        store_of(tmp_path / "nowhere").keep(NAME, bytes(32))


def test_another_passphrase_another_name_another_byte(tmp_path: Path) -> None:
    keys = store_of(tmp_path, quick())
    keys.keep(NAME, bytes(32))
    with pytest.raises(LocalFault, match="wrong passphrase"):
        store_of(tmp_path, quick(b"another passphrase")).load(NAME)
    path = tmp_path / NAME
    good = json.loads(path.read_bytes())
    for field in ("salt", "sealed"):
        flipped = ("A" if good[field][3] != "A" else "B").join((good[field][:3], good[field][4:]))
        path.write_text(json.dumps(good | {field: flipped}))
        with pytest.raises(LocalFault, match="or the file is damaged"):
            keys.load(NAME)
    path.write_text(json.dumps(good | {"name": "ca.seed"}))
    path.rename(tmp_path / "ca.seed")
    with pytest.raises(LocalFault, match="or the file is damaged"):
        keys.load("ca.seed")
    (tmp_path / "ca.seed").write_text(json.dumps(good))
    with pytest.raises(LocalFault, match="sealed as 'owner"):
        keys.load("ca.seed")
    (tmp_path / "ca.seed").write_text(json.dumps(good | {"log_n": 40}))
    with pytest.raises(LocalFault, match="that is no key"):
        keys.load("ca.seed")


def test_a_short_passphrase() -> None:
    with pytest.raises(LocalFault, match="fewer than 12"):
        quick(b"12345678901").seal(NAME, bytes(32))


def test_a_file_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(tmp_path)
    for mode in (0o640, 0o604, 0o660):
        (tmp_path / NAME).chmod(mode)
        with pytest.raises(LocalFault, match="chmod 600"):
            store_of(tmp_path).load(NAME)
    # systemd's directory of credentials is closed to others, whatever the mode of what is in it.
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    store_of(tmp_path).load(NAME)
    assert credential(Path(NAME)) == tmp_path / NAME
    assert credential(Path("/etc") / NAME) == Path("/etc") / NAME


def test_what_isn_t_a_key(tmp_path: Path) -> None:
    path = tmp_path / NAME
    for content in (b"", bytes(33), bytes(form.FILE_MAX), b"{}", b"QUJD"):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(LocalFault, match=r"owner\.seed: that is no key"):
            store_of(tmp_path).load(NAME)
    path.write_bytes(bytes(form.FILE_MAX + 1))
    with pytest.raises(LocalFault, match="has more than"):
        store_of(tmp_path).load(NAME)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(LocalFault, match="not a regular file"):
        store_of(tmp_path).load(NAME)


# --- asking


def test_a_passphrase_from_a_descriptor_or_file_is_read_once(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe\r\n")
    os.close(writing)
    ask = asker("passphrase", tmp_path / "unused", reading)
    assert (ask(), ask()) == (b"from a pipe", b"from a pipe")
    os.close(reading)
    file = tmp_path / "passphrase"
    file.write_bytes(b"from a file\n")
    file.chmod(0o600)
    assert asker("passphrase", file)() == b"from a file"
    file.chmod(0o644)
    with pytest.raises(LocalFault, match="chmod 600"):
        asker("passphrase", file)()
    with pytest.raises(LocalFault, match="descriptor 999"):
        asker("passphrase", None, 999)()
    file.write_bytes(b"\n")
    file.chmod(0o600)
    with pytest.raises(LocalFault, match="is empty"):
        asker("passphrase", file)()


def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "nothing").open("w+") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(LocalFault, match="no terminal is there"):
            asker("passphrase")()


# --- moves


def test_a_move_and_what_is_left_of_the_old_copy(tmp_path: Path) -> None:
    seed = plain(tmp_path)
    keys = store_of(tmp_path, quick())
    with (tmp_path / NAME).open("rb") as old:  # as whoever reads the disk's blocks has it
        move(keys, NAME)
        assert old.read() == bytes(32)
    assert keys.load(NAME) == seed
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root, to give a file away")
def test_root_leaves_a_daemon_s_key_to_the_daemon(tmp_path: Path) -> None:
    plain(tmp_path)
    os.chown(tmp_path / NAME, 1234, 2345)
    move(store_of(tmp_path, quick()), NAME)
    status = (tmp_path / NAME).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 2345, 0o600)


def test_a_move_that_can_t_be_made_changes_nothing(tmp_path: Path) -> None:
    class Forgets:
        kind = Kind.HSM

        def seal(self, name: str, secret: bytes) -> bytes:
            return b"x"

        def open(self, name: str, data: bytes) -> bytes:
            return bytes(32)

    seed = plain(tmp_path)
    with pytest.raises(LocalFault, match="opens as something else"):
        move(store_of(tmp_path, Forgets()), NAME)
    with pytest.raises(LocalFault, match="fewer than"):
        move(store_of(tmp_path, quick(b"short")), NAME)
    assert (tmp_path / NAME).read_bytes() == seed
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_key_with_another_name_isn_t_destroyed_under_that(tmp_path: Path) -> None:
    seed, keys = plain(tmp_path), store_of(tmp_path, quick())
    os.link(tmp_path / NAME, tmp_path / "backup")
    with pytest.raises(LocalFault, match="second name"):
        move(keys, NAME)
    assert (tmp_path / "backup").read_bytes() == seed
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to("backup")
    with pytest.raises(LocalFault, match="only points to a key"):
        move(keys, NAME)
    assert (tmp_path / "backup").read_bytes() == seed


def test_what_a_move_left_is_forgotten_too(tmp_path: Path) -> None:
    plain(tmp_path)
    plain(tmp_path, f".{NAME}.former")
    store_of(tmp_path).forget(NAME)
    assert list(tmp_path.iterdir()) == []


def test_two_moves_at_once(tmp_path: Path) -> None:
    plain(tmp_path)
    with (
        store.by_turns(tmp_path),
        pytest.raises(LocalFault, match="another command changes keys"),
    ):
        move(store_of(tmp_path, quick()), NAME)


def cut_off(keys: KeyStore, at: int, after: bool) -> bool:
    """Move in a process that is killed before or after its step number `at`; was it?"""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(step: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == at and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                mine = count == at
                try:
                    return step(*args, **kwargs)
                finally:
                    if mine:
                        os.kill(os.getpid(), signal.SIGKILL)

            return wrapped

        try:
            for owner, name in ((os, "fsync"), (os, "link"), (os, "pwrite"), (os, "open")):
                setattr(owner, name, dying(getattr(owner, name)))
            for name in ("replace", "unlink"):
                setattr(Path, name, dying(getattr(Path, name)))
            move(keys, NAME)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_move_that_is_killed_anywhere_loses_nothing(tmp_path: Path, after: bool) -> None:
    at, states = 0, set()
    while True:
        at += 1
        here = tmp_path / str(at)
        here.mkdir()
        seed, keys = plain(here), store_of(here, quick())
        killed = cut_off(keys, at, after)
        assert keys.load(NAME) == seed
        states.add((type(read_form(here / NAME)).__name__, unfinished(here / NAME)))
        move(keys, NAME)  # the person tries again
        assert keys.load(NAME) == seed
        assert [path.name for path in here.iterdir()] == [NAME]
        assert seed not in (here / NAME).read_bytes()
        if not killed:
            break
    assert at > 10
    assert states == {("Plain", False), ("ByPassphrase", True), ("ByPassphrase", False)}


def test_the_former_copy_stays_while_the_new_one_doesn_t_open(tmp_path: Path) -> None:
    seed, keys = plain(tmp_path), store_of(tmp_path, quick())
    os.link(tmp_path / NAME, tmp_path / f".{NAME}.former")
    files.write_atomic(tmp_path / NAME, quick(b"another passphrase").seal(NAME, seed))
    with pytest.raises(LocalFault, match="wrong passphrase"):
        finish(keys, NAME)
    assert (tmp_path / f".{NAME}.former").read_bytes() == seed


def test_passphrase_is_not_in_what_is_kept(tmp_path: Path) -> None:
    store_of(tmp_path, quick()).keep(NAME, bytes(32))
    assert PASSPHRASE not in (tmp_path / NAME).read_bytes()

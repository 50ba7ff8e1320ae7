"""`qflare keys`, and the places where keys are read: coordinator and release."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from coordinator import daemon
from coordinator.authority import load_authority
from qflare.crypto.keys import KemPrivateKey, SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault
from qflare.host.config import load
from qflare.host.keystore import moving, options
from qflare.host.keystore.pcrs import Approvals, Pcr, State, approved, parse_approvals
from qflare.host.keystore.settings import KeysFile, TpmSection
from qflare.host.typed import Typed, Unfit, encode, parse
from tests.enrol_kit import Home, new_world
from tests.keys_kit import NAME, PASSPHRASE, plain, quick

_WORLD = new_world()


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own settings; scrypt at the least cost that is taken."""
    monkeypatch.setattr(options, "CONFIG", tmp_path / "no.toml")
    monkeypatch.setattr("qflare.host.keystore.passphrase.LOG_N", 14)
    monkeypatch.setattr("qflare.host.keystore.passphrase.UnderPassphrase.__init__", _cheap)


def _cheap(self: Any, ask: Any, log_n: int = 14) -> None:
    self._ask, self._log_n = ask, log_n


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration that keeps keys under a passphrase, which lies in a file."""
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    (tmp_path / "passphrase").chmod(0o600)
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys]\nstore = "file"\npassphrase_file = "{tmp_path}/passphrase"\n')
    return path


def keys(*words: str | Path) -> int:
    from qflare.cli import main

    return main(["keys", *map(str, words)])


def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_list_opens_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = tmp_path / "etc"
    here.mkdir()
    plain(here, "coordinator.seed")
    plain(here, "32-bytes-of-text")
    (here / "ca.seed").write_bytes(quick().seal("ca.seed", bytes(32)))
    (here / "ca.seed").chmod(0o600)
    (here / "edge.toml").write_text("[device]")
    (here / "edge.toml").chmod(0o600)
    assert keys("list", here, "--json") == 0
    lines = shown(capsys)
    assert [(Path(line["path"]).name, line["store"]) for line in lines] == [
        ("ca.seed", "file"),
        ("coordinator.seed", "plain"),
    ]
    os.link(here / "ca.seed", here / ".ca.seed.former")
    (here / "open.seed").write_bytes(bytes(32))
    (here / "open.seed").chmod(0o644)
    assert keys("list", here) == 1
    said = capsys.readouterr().out
    assert "chmod 600" in said
    assert "cut off" not in said  # both names are of one file: nothing was replaced yet
    moving.destroy(here / ".ca.seed.former")
    plain(here, ".coordinator.seed.former")
    assert keys("list", here / "coordinator.seed") == 1
    assert "a move was cut off" in capsys.readouterr().out
    assert keys("list", tmp_path / "etc" / "edge.toml") == 1
    assert "that is no key" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert keys("list", tmp_path / "none") == 0
    assert "no keys there" in capsys.readouterr().out


def test_a_new_key_is_never_in_clear(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, public = tmp_path / NAME, tmp_path / "owner.key"
    assert keys("new", path, "--public", public, "--config", file) == 0
    key = VerifyKey.parse(DEFAULT, public.read_bytes())
    assert str(key.fingerprint) in capsys.readouterr().out
    assert keys("check", path, "--config", file, "--json") == 0
    assert shown(capsys) == [
        {"path": str(path), "store": "file", "key": str(key.fingerprint), "wrong": "", "note": ""}
    ]
    public.unlink()
    assert keys("check", path, "--public", public, "--config", file) == 0
    assert public.read_bytes() == key.raw
    assert keys("check", path, path, "--public", public, "--config", file) == 1
    before = path.read_bytes()
    assert keys("new", path, "--config", file) == 1
    assert keys("new", tmp_path / "other.seed", "--public", public, "--config", file) == 1
    assert path.read_bytes() == before
    assert not (tmp_path / "other.seed").exists()


def test_move_check_forget(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = plain(tmp_path)
    kem = KemPrivateKey.generate(DEFAULT)
    plain(tmp_path, "kem.seed", kem.to_seed())
    assert keys("move", tmp_path / NAME, tmp_path / "kem.seed", "--config", file) == 0
    capsys.readouterr()
    assert keys("check", tmp_path / NAME, tmp_path / "kem.seed", "--config", file, "--json") == 0
    ours = SigningKey.from_seed(DEFAULT, seed).verify_key.fingerprint
    assert [line["key"] for line in shown(capsys)] == [str(ours), str(kem.public.fingerprint)]
    assert keys("forget", tmp_path / NAME) == 1
    assert "--yes" in capsys.readouterr().err
    assert keys("forget", tmp_path / NAME, "--yes") == 0
    assert not (tmp_path / NAME).exists()
    assert keys("forget", file, "--yes") == 1  # no key
    assert file.exists()


def test_a_passphrase_by_a_descriptor_and_never_by_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(tmp_path)

    def given(passphrase: bytes, *words: str | Path) -> int:
        reading, writing = os.pipe()
        os.write(writing, passphrase)
        os.close(writing)
        try:
            return keys(*words, "--passphrase-fd", str(reading))
        finally:
            os.close(reading)

    assert given(PASSPHRASE, "move", tmp_path / NAME, "--to", "file") == 0
    assert given(PASSPHRASE, "check", tmp_path / NAME) == 0
    assert given(b"another passphrase", "check", tmp_path / NAME) == 1
    said = capsys.readouterr()
    assert "wrong passphrase" in said.out
    assert "another passphrase" not in said.out + said.err
    with pytest.raises(SystemExit):
        keys("check", tmp_path / NAME, "--passphrase", "word")


def test_another_passphrase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NAME).write_bytes(quick().seal(NAME, bytes(32)))
    (tmp_path / NAME).chmod(0o600)
    ends = []
    for said in (PASSPHRASE, b"another six words by dice"):
        reading, writing = os.pipe()
        os.write(writing, said)
        os.close(writing)
        ends.append(reading)
    fds = ("--passphrase-fd", str(ends[0]), "--new-passphrase-fd", str(ends[1]))
    assert keys("move", tmp_path / NAME, "--to", "file", *fds) == 0
    for end in ends:
        os.close(end)
    content = (tmp_path / NAME).read_bytes()
    assert quick(b"another six words by dice").open(NAME, content) == bytes(32)
    with pytest.raises(LocalFault, match="wrong passphrase"):
        quick().open(NAME, content)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('store = "safe"', "keys.store"),
        ('store = "hsm"', "wants"),
        ('store = "tpm"\n[keys.tpm]\npcrs = [24]', "pcrs"),
        ('store = "tpm"\n[keys.tpm]\npcrs = []', "pcrs"),
        ('store = "hsm"\n[keys.hsm]\nmodule = "/x"', "keys.hsm.token"),
        ('store = "file"\npassphrase = "in clear"', "keys.passphrase:"),
    ],
)
def test_settings_that_are_wrong(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "keys.toml"
    config.write_text(f"[keys]\n{text}\n")
    assert keys("check", tmp_path / NAME, "--config", config) == 78
    told = capsys.readouterr().err
    assert said in told
    assert "in clear" not in told


def test_where_to_has_to_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain(tmp_path)
    assert keys("move", tmp_path / NAME) == 1
    assert "give --to" in capsys.readouterr().err
    assert keys("move", tmp_path / NAME, "--to", "hsm") == 78
    assert "[keys.hsm]" in capsys.readouterr().err


# --- the owner's approvals


def test_approve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = tmp_path / "approver.pem"
    pem.write_bytes(_pem(key, b"the approver's"))
    pem.chmod(0o600)
    state = State((Pcr(7, "ab" * 32), Pcr(11, "cd" * 32)))
    (tmp_path / "state.json").write_bytes(encode(state))
    approvals = tmp_path / "approvals.json"

    def approve(password: bytes) -> int:
        reading, writing = os.pipe()
        os.write(writing, password)
        os.close(writing)
        words = ("--approver", pem, "--approvals", approvals, "--passphrase-fd", str(reading))
        return keys("approve", tmp_path / "state.json", *words)

    assert approve(b"not the approver's") == 1
    assert "password is wrong" in capsys.readouterr().err
    assert not approvals.exists()
    assert approve(b"the approver's") == 0
    once = approvals.read_bytes()
    assert approved(parse_approvals(once), state, key.public_key())
    assert approve(b"the approver's") == 0
    assert approvals.read_bytes() == once
    (tmp_path / "state.json").write_bytes(encode(State((Pcr(7, "ef" * 32),))))
    assert approve(b"the approver's") == 0
    assert len(parse_approvals(approvals.read_bytes()).sha256) == 2
    assert approved(parse_approvals(approvals.read_bytes()), state, key.public_key())


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 3072), ec.generate_private_key(ec.SECP256R1())]
)
def test_an_approver_that_a_tpm_couldn_t_verify(
    tmp_path: Path, key: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pem = tmp_path / "approver.pem"
    pem.write_bytes(_pem(key, None))
    pem.chmod(0o600)
    (tmp_path / "state.json").write_bytes(encode(State((Pcr(7, "ab" * 32),))))
    words = ("--approver", pem, "--approvals", tmp_path / "approvals.json")
    assert keys("approve", tmp_path / "state.json", *words) == 1
    assert "RSA of 2048 bits" in capsys.readouterr().err


def test_an_approval_is_of_one_state_by_one_key() -> None:
    from qflare.host.keystore.pcrs import approve

    key, other = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    state = State((Pcr(7, "ab" * 32),))
    made = approve(Approvals(), state, key)
    assert approved(made, state, key.public_key())
    assert not approved(made, state, other.public_key())
    for changed in (State((Pcr(7, "ac" * 32),)), State((Pcr(8, "ab" * 32),))):
        assert not approved(made, changed, key.public_key())
    forged = encode(approve(Approvals(), state, other)).decode()
    fingerprint = re.findall(r'"pkfp": ?"(\w+)"', encode(made).decode())[0]
    forged = re.sub(r'("pkfp": ?)"\w+"', rf'\1"{fingerprint}"', forged)
    assert not approved(parse_approvals(forged.encode()), state, key.public_key())


def _pem(key: Any, password: bytes | None) -> bytes:
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        how = serialization.BestAvailableEncryption(password)
    form = serialization.PrivateFormat.PKCS8
    made: bytes = key.private_bytes(serialization.Encoding.PEM, form, how)
    return made


# --- the coordinator


def test_the_coordinator_s_keys(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home", _WORLD)
    config = home.write(None)
    check = ["--config", str(config), "--check"]
    assert daemon.main(check) == 0
    with config.open("a") as more:
        more.write(file.read_text())
    assert daemon.main(check) == 78
    said = capsys.readouterr().err
    assert f"qflare keys move {home.path}/key --to file" in said
    both = (home.path / "key", home.path / "ca.seed")
    assert keys("move", *both, "--config", config) == 0
    assert all(_WORLD.coordinator.to_seed() not in path.read_bytes() for path in both)
    assert daemon.main(check) == 0
    assert load_authority(home.config).key.verify_key == _WORLD.coordinator.verify_key
    # One key's file in the other one's place.
    both[0].write_bytes(both[1].read_bytes())
    assert daemon.main(check) == 78
    assert "sealed as 'ca.seed'" in capsys.readouterr().err


def test_a_coordinator_s_key_that_others_may_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home", _WORLD)
    check = ["--config", str(home.write(None)), "--check"]
    (home.path / "key").chmod(0o640)
    assert daemon.main(check) == 78
    assert "chmod 600" in capsys.readouterr().err


def test_the_documented_settings_are_some(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()
    config = tmp_path / "keys.toml"
    config.write_text(page.split("```toml\n")[1].split("```")[0])
    section = load(KeysFile, "owner", config, {}).value.keys
    assert section is not None
    assert section.hsm is not None
    assert (section.store, section.tpm, section.hsm.key) == ("tpm", TpmSection(), "qflare")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"part": {"number": 1, "other": 2}}, "part.other: no such key"),
        ({"part": {}}, "part.number: is missing"),
        ({"part": "text"}, "part: a table is wanted"),
        ({"part": {"number": "1"}}, "part.number: "),
    ],
)
def test_a_table_that_may_be_left_out_is_looked_into(tree: Any, said: str) -> None:
    class Inner(Typed):
        number: int

    class Outer(Typed):
        part: Inner | None = None

    with pytest.raises(Unfit, match=re.escape(said)):
        parse(Outer, tree)
    assert parse(Outer, {}) == parse(Outer, {"part": None}) == Outer()
    assert parse(Outer, {"part": {"number": 1}}) == Outer(Inner(1))

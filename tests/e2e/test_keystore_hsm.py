"""Keys under a token: SoftHSM 2, by the code that meets a YubiHSM.

A token in hardware isn't here to be tried: docs/keys.md says how its owner does.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault
from qflare.host.keystore.hsm import Abilities, InToken, abilities
from qflare.host.keystore.moving import move
from tests.keys_kit import NAME, Tokens, plain, softhsm, store_of

pytestmark = pytest.mark.slow
pkcs11 = pytest.importorskip("pkcs11", reason="wants python-pkcs11: pip install 'qflare[hsm]'")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokens]:
    with softhsm(tmp_path_factory.mktemp("softhsm")) as made:
        yield made


@pytest.fixture
def sealed(tokens: Tokens, tmp_path: Path) -> bytes:
    """A key that was moved to the token `one`; its seed."""
    seed = plain(tmp_path)
    move(store_of(tmp_path, at(tokens)), NAME)
    return seed


def at(tokens: Tokens, which: str = "one", label: str = "qflare", pin: bytes = b"5678") -> InToken:
    return InToken(tokens.module, which, label, lambda: pin)


def objects(tokens: Tokens, label: str = "qflare") -> list[Any]:
    with pkcs11.lib(str(tokens.module)).get_token(token_label="one").open(user_pin="5678") as on:
        return [(key, dict(attributes(key))) for key in on.get_objects() if key.label == label]


def attributes(key: Any) -> Iterator[tuple[str, bool]]:
    for name in ("SENSITIVE", "EXTRACTABLE", "NEVER_EXTRACTABLE", "LOCAL", "PRIVATE", "WRAP"):
        yield name, key[pkcs11.Attribute[name]]


def test_it_opens_by_the_token_and_shows_nothing(
    tokens: Tokens, tmp_path: Path, sealed: bytes
) -> None:
    assert store_of(tmp_path, at(tokens)).load(NAME) == sealed
    content = (tmp_path / NAME).read_bytes()
    assert sealed not in content
    assert sealed.hex().encode() not in content
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_the_token_s_key_never_leaves_it(tokens: Tokens, sealed: bytes) -> None:
    ((_, said),) = objects(tokens)
    assert said == {
        "SENSITIVE": True,
        "EXTRACTABLE": False,
        "NEVER_EXTRACTABLE": True,
        "LOCAL": True,
        "PRIVATE": True,
        "WRAP": False,
    }
    with (
        pkcs11.lib(str(tokens.module))
        .get_token(token_label="one")
        .open(user_pin="5678", rw=True) as session
    ):
        (key,) = session.get_objects({pkcs11.Attribute.LABEL: "qflare"})
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]
        with pytest.raises(pkcs11.PKCS11Error):
            key[pkcs11.Attribute.EXTRACTABLE] = True
        wraps = session.generate_key(
            pkcs11.KeyType.AES, 256, capabilities=pkcs11.MechanismFlag.WRAP
        )
        with pytest.raises(pkcs11.KeyUnextractable):
            wraps.wrap_key(key, mechanism=pkcs11.Mechanism.AES_KEY_WRAP)


def test_wrong_pin(tokens: Tokens, tmp_path: Path, sealed: bytes) -> None:
    with pytest.raises(LocalFault, match=r"PIN is wrong; few attempts"):
        store_of(tmp_path, at(tokens, pin=b"0000")).load(NAME)
    with pytest.raises(LocalFault, match="PIN is not text"):
        store_of(tmp_path, at(tokens, pin=b"\xff\xfe56")).load(NAME)
    assert store_of(tmp_path, at(tokens)).load(NAME) == sealed


def test_another_token(tokens: Tokens, tmp_path: Path, sealed: bytes) -> None:
    serial = json.loads((tmp_path / NAME).read_bytes())["token"]
    with pytest.raises(LocalFault, match=f"has no key 'other'.*{serial}"):
        store_of(tmp_path, at(tokens, "one", "other")).load(NAME)
    plain(tmp_path, "second.seed")
    move(store_of(tmp_path, at(tokens, "two")), "second.seed")  # has a key now
    with pytest.raises(LocalFault, match=f"sealed by another token.*{serial}"):
        store_of(tmp_path, at(tokens, "two")).load(NAME)
    with pytest.raises(LocalFault, match="no token called 'three'"):
        store_of(tmp_path, at(tokens, "three")).load(NAME)
    gone = InToken(tmp_path / "no.so", "one", "qflare", lambda: b"5678")
    with pytest.raises(LocalFault, match="no such PKCS#11 module"):
        store_of(tmp_path, gone).load(NAME)


def test_a_file_that_was_touched(tokens: Tokens, tmp_path: Path, sealed: bytes) -> None:
    path, store = tmp_path / NAME, store_of(tmp_path, at(tokens))
    good = json.loads(path.read_bytes())
    for field in ("salt", "sealed"):
        for at_char in (0, len(good[field]) // 2):
            was = good[field][at_char]
            other = "A" if was != "A" else "B"
            bad = good | {field: good[field][:at_char] + other + good[field][at_char + 1 :]}
            path.write_text(json.dumps(bad))
            with pytest.raises(LocalFault, match="doesn't open it"):
                store.load(NAME)
    # One key's file in another one's place, as it is and with the name inside changed.
    path.write_text(json.dumps(good))
    path.rename(tmp_path / "coordinator.seed")
    with pytest.raises(LocalFault, match=r"sealed as 'owner\.seed'"):
        store.load("coordinator.seed")
    renamed = tmp_path / "coordinator.seed"
    renamed.write_text(json.dumps(good | {"name": "coordinator.seed"}))
    with pytest.raises(LocalFault, match="doesn't open it"):
        store.load("coordinator.seed")


def test_a_key_that_can_be_read_out_isn_t_used(tokens: Tokens, tmp_path: Path) -> None:
    with (
        pkcs11.lib(str(tokens.module))
        .get_token(token_label="one")
        .open(user_pin="5678", rw=True) as session
    ):
        session.create_object(
            {
                pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
                pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.GENERIC_SECRET,
                pkcs11.Attribute.VALUE: bytes(32),
                pkcs11.Attribute.LABEL: "open",
                pkcs11.Attribute.TOKEN: True,
                pkcs11.Attribute.SIGN: True,
                pkcs11.Attribute.EXTRACTABLE: True,
                pkcs11.Attribute.SENSITIVE: False,
            }
        )
    seed = plain(tmp_path)
    with pytest.raises(LocalFault, match="can be read out"):
        move(store_of(tmp_path, at(tokens, label="open")), NAME)
    assert (tmp_path / NAME).read_bytes() == seed


def test_what_a_token_can(tokens: Tokens) -> None:
    """SoftHSM 2.6 has no ML-DSA; a list that has it is told apart."""
    assert at(tokens).abilities() == Abilities(keeps=True, signs=False)
    mechanism = pkcs11.Mechanism
    assert abilities({mechanism.SHA256_HMAC, mechanism.ML_DSA}) == Abilities(True, True)
    assert abilities({mechanism.AES_GCM}) == Abilities(False, False)


def test_by_command(tokens: Tokens, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from qflare.cli import main

    (tmp_path / "pin").write_bytes(b"5678\n")
    (tmp_path / "pin").chmod(0o600)
    config = tmp_path / "keys.toml"
    config.write_text(
        f'[keys]\nstore = "hsm"\n[keys.hsm]\nmodule = "{tokens.module}"\ntoken = "one"\n'
        f'pin_file = "{tmp_path}/pin"\n'
    )
    path, public = tmp_path / "new.seed", tmp_path / "new.key"
    assert main(["keys", "new", str(path), "--public", str(public), "--config", str(config)]) == 0
    assert main(["keys", "check", str(path), "--config", str(config), "--json"]) == 0
    said = capsys.readouterr().out
    (line,) = json.loads(said[said.index("[") :])
    key = VerifyKey.parse(DEFAULT, public.read_bytes())
    assert (line["store"], line["key"]) == ("hsm", str(key.fingerprint))
    assert line["note"] == ""  # SoftHSM 2.6 signs no ML-DSA
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InToken, "abilities", lambda _: abilities(set(pkcs11.Mechanism)))
        assert main(["keys", "check", str(path), "--config", str(config)]) == 0
    assert "signs ML-DSA by itself" in capsys.readouterr().out
    (tmp_path / "pin").write_bytes(b"0000\n")
    assert main(["keys", "check", str(path), "--config", str(config)]) == 1
    assert "PIN is wrong" in capsys.readouterr().out

"""The owner's key sealed to a TPM by systemd-creds, as `LoadCredentialEncrypted=` opens it.

The TPM is swtpm, a whole TPM 2.0 in software (libtpms); a chip on a board isn't here to be tried.
"""

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.sources.collector import Collector
from edge_runtime.sources.record import Record
from edge_runtime.storage.opening import SAMPLES, StorageSection, open_store, purpose_key
from qflare.host.config import ConfigFault
from tests.keys_kit import running_tpm
from tests.unit.test_edge_store import commit
from tests.unit.test_source_collector import SETTINGS, Nobody, raw, replace, values

pytestmark = pytest.mark.slow
DROP_IN = Path(__file__).parents[2] / "systemd/drop-ins/storage-key.conf"


def creds(verb: str, device: str, *words: str | Path) -> "subprocess.CompletedProcess[bytes]":
    command = ["systemd-creds", verb, f"--tpm2-device={device}", "--name=storage.key", *words]
    return subprocess.run(command, capture_output=True, check=False)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A board's TPM, and a key that was made as the drop-in says and sealed to it."""
    for program, package in (("swtpm", "swtpm"), ("systemd-creds", "systemd")):
        if shutil.which(program) is None:
            pytest.skip(f"wants {program}; install the package {package}")
    assert "systemd-creds encrypt --with-key=tpm2 --name=storage.key" in DROP_IN.read_text()
    with running_tpm(tmp_path / "board") as device:
        key = tmp_path / "key"
        key.write_bytes(secrets.token_bytes(32))
        sealed = tmp_path / "storage.key.cred"
        done = creds("encrypt", device, "--with-key=tpm2", key, sealed)
        if b"not supported" in done.stderr or b"not installed" in done.stderr:
            pytest.skip("wants libtss2-esys, libtss2-rc0, libtss2-mu0 and libtss2-tcti-swtpm0")
        assert done.returncode == 0, done.stderr
        yield device, sealed


def test_all_is_under_a_key_that_only_this_board_s_tpm_opens(
    tmp_path: Path, board: tuple[str, Path]
) -> None:
    device, sealed = board
    key = (tmp_path / "key").read_bytes()
    assert key not in sealed.read_bytes()
    (tmp_path / "key").unlink()
    given, state, section = tmp_path / "credentials", tmp_path / "state", StorageSection()
    given.mkdir()
    done = creds("decrypt", device, sealed, given / "storage.key")
    assert done.returncode == 0, done.stderr
    environ = {"CREDENTIALS_DIRECTORY": str(given)}
    store = open_store(state, section, environ)
    store.load()
    store.commit(commit(1))
    store.close()
    samples = replace(SETTINGS, path=tmp_path / "ring")
    collector = Collector(samples, Nobody(), purpose_key(state, section, environ, SAMPLES))
    collector.inbox.put(Record((1.0,), 1.7e9, "canary"))
    collector.close()
    assert b"canary" not in raw(tmp_path / "ring")
    assert not any(key in path.read_bytes() for path in state.rglob("*") if path.is_file())

    # The card in another board: its TPM opens nothing, and so neither daemon nor collector starts.
    with running_tpm(tmp_path / "another") as other:
        assert creds("decrypt", other, sealed, tmp_path / "taken").returncode != 0
    for nothing in ({}, {"CREDENTIALS_DIRECTORY": str(tmp_path)}):
        with pytest.raises(ConfigFault, match="key is not here"):
            open_store(state, section, nothing)
        with pytest.raises(ConfigFault, match="key is not here"):
            purpose_key(state, section, nothing, SAMPLES, create=True)

    # After a new start of the board, all is there again.
    (given / "storage.key").unlink()
    assert creds("decrypt", device, sealed, given / "storage.key").returncode == 0
    assert (given / "storage.key").read_bytes() == key
    assert values(tmp_path / "ring", purpose_key(state, section, environ, SAMPLES)) == [1.0]

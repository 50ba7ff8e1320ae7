"""Keys in a TPM: a whole TPM 2.0 in software (swtpm), by the code that meets a chip.

A chip on a board isn't here to be tried: docs/keys.md says how its owner does.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from qflare.faults import LocalFault
from qflare.host.keystore import tpm_device
from qflare.host.keystore.form import ByTpm, parse_form
from qflare.host.keystore.moving import move
from qflare.host.keystore.store import KeyStore
from qflare.host.keystore.tpm import InTpm
from tests.keys_kit import NAME, PCRS, Approver, extend, plain, running_tpm, store_of

pytestmark = pytest.mark.slow


class Machine:
    """A machine with a TPM, in a state that the approver approved, and one key."""

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.approver = Approver.make(folder / "owner")
        extend(device, 7, b"secure boot")
        extend(device, 11, b"version 1")
        self.approver.approve(device)
        self.seed = plain(folder)
        move(self.store, NAME)

    @property
    def store(self) -> KeyStore:
        return self.store_at(self.device)

    def store_at(self, device: str, approver: Approver | None = None) -> KeyStore:
        who = approver or self.approver
        return store_of(self.folder, InTpm(device, PCRS, who.public, who.approvals))

    def refused(self, said: str, store: KeyStore | None = None, name: str = NAME) -> None:
        with pytest.raises(LocalFault, match=said):
            (store or self.store).load(name)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with running_tpm(tmp_path / "tpm") as device:
        yield Machine(device, tmp_path)


def test_it_opens_in_the_approved_state_and_shows_nothing(machine: Machine) -> None:
    sealed = (machine.folder / NAME).read_bytes()
    assert isinstance(parse_form(sealed), ByTpm)
    assert machine.seed not in sealed
    assert machine.store.load(NAME) == machine.seed


def test_a_new_state_wants_an_approval_and_nothing_else(machine: Machine) -> None:
    sealed = (machine.folder / NAME).read_bytes()
    extend(machine.device, 11, b"version 2")
    machine.refused("nobody approved the state")
    machine.approver.approve(machine.device)
    assert machine.store.load(NAME) == machine.seed
    assert (machine.folder / NAME).read_bytes() == sealed


def test_a_register_outside_the_policy_may_change(machine: Machine) -> None:
    extend(machine.device, 16, b"anything")
    assert machine.store.load(NAME) == machine.seed


def test_an_approval_by_another_key_is_refused(machine: Machine, tmp_path: Path) -> None:
    extend(machine.device, 11, b"malware")
    stranger = Approver.make(tmp_path / "stranger")
    machine.approver.approve(machine.device, stranger.key)
    machine.refused("nobody approved the state")  # the approval names the stranger's key
    # A stranger who says that it is the approver's: the TPM verifies.
    text = machine.approver.approvals.read_text()
    by = [line for line in text.split('"') if len(line) == 64]
    ours, theirs = by[0], by[2]
    machine.approver.approvals.write_text(text.replace(theirs, ours))
    machine.refused("signed by another key")
    # His key named as the approver's: the credential knows whose approvals it takes.
    stranger.approve(machine.device)
    machine.refused("nobody approved", machine.store_at(machine.device, stranger))


def test_an_approval_of_another_state_is_refused(machine: Machine) -> None:
    state = tpm_device.read_state(machine.device, PCRS).policy().hex()
    extend(machine.device, 11, b"malware")
    new = tpm_device.read_state(machine.device, PCRS).policy().hex()
    text = machine.approver.approvals.read_text()
    machine.approver.approvals.write_text(text.replace(state, new))
    machine.refused("signed by another key")


def test_a_file_in_another_machine_is_refused(machine: Machine, tmp_path: Path) -> None:
    with running_tpm(tmp_path / "another") as device:
        for number, what in ((7, b"secure boot"), (11, b"version 1")):
            extend(device, number, what)
        machine.refused("another TPM", machine.store_at(device))
    machine.refused("is there a TPM", machine.store_at(f"swtpm:path={tmp_path}/nothing"))
    machine.refused("is there a TPM", machine.store_at("/dev/no-tpm"))
    machine.refused("is no device", machine.store_at(str(machine.folder / NAME)))
    machine.refused("doesn't answer", machine.store_at("/dev/tpmrm-nothing"))
    machine.refused("no TPM that we know", machine.store_at("tabrmd:bus_type=system"))


def test_a_file_under_another_name_is_refused(machine: Machine) -> None:
    (machine.folder / NAME).rename(machine.folder / "coordinator.seed")
    machine.refused("another name", name="coordinator.seed")


def test_a_damaged_file_is_refused(machine: Machine) -> None:
    path = machine.folder / NAME
    sealed = path.read_bytes()
    for at in range(0, len(sealed), 97):
        broken = bytearray(sealed)
        broken[at] = ord("A") if broken[at] != ord("A") else ord("B")
        path.write_bytes(broken)
        machine.refused(".")


def test_a_key_isn_t_moved_into_a_state_that_nobody_approved(machine: Machine) -> None:
    seed = plain(machine.folder, "second.seed")
    extend(machine.device, 11, b"unknown")
    with pytest.raises(LocalFault, match="nobody approved"):
        move(machine.store, "second.seed")
    assert (machine.folder / "second.seed").read_bytes() == seed


def test_no_place_of_the_tpm_is_lost(machine: Machine) -> None:
    """It has three for sessions, and systemd 252 leaves one behind each time."""
    before = tpm_device.volatile(machine.device)
    for _ in range(5):
        machine.store.load(NAME)
    extend(machine.device, 11, b"other")
    for _ in range(5):
        machine.refused("nobody approved")
    assert tpm_device.volatile(machine.device) == before


def test_by_command_from_a_plain_key_to_a_new_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What docs/keys.md has owner and machine type, in its order."""
    from qflare.cli import main

    with running_tpm(tmp_path / "tpm") as device:
        extend(device, 7, b"secure boot")
        owner = Approver.make(tmp_path / "owner")
        private = tmp_path / "approver-private.pem"
        form = serialization.PrivateFormat.PKCS8
        pem = serialization.Encoding.PEM
        private.write_bytes(owner.key.private_bytes(pem, form, serialization.NoEncryption()))
        private.chmod(0o600)
        seed, key, config = plain(tmp_path), tmp_path / NAME, tmp_path / "keys.toml"
        config.write_text(
            f'[keys]\nstore = "tpm"\n[keys.tpm]\ndevice = "{device}"\n'
            f'approver = "{owner.public}"\napprovals = "{owner.approvals}"\n'
        )

        def keys(*words: str | Path) -> int:
            return main(["keys", *map(str, words)])

        def approve() -> None:
            assert keys("state", "-o", tmp_path / "state.json", "--config", config) == 0
            by = ("--approver", private, "--approvals", owner.approvals)
            assert keys("approve", tmp_path / "state.json", *by) == 0

        assert keys("move", key, "--config", config) == 1
        assert "nobody approved" in capsys.readouterr().err
        assert key.read_bytes() == seed
        approve()
        assert keys("move", key, "--config", config) == 0
        assert seed not in key.read_bytes()
        assert keys("check", key, "--config", config) == 0
        extend(device, 7, b"other keys of secure boot")
        assert keys("check", key, "--config", config) == 1
        assert "nobody approved" in capsys.readouterr().out
        approve()
        assert keys("check", key, "--config", config) == 0
        assert "nothing is measured" not in capsys.readouterr().err
    with running_tpm(tmp_path / "blank") as blank:
        config.write_text(f'[keys]\nstore = "tpm"\n[keys.tpm]\ndevice = "{blank}"\n')
        assert keys("state", "--config", config) == 0
        assert "nothing is measured" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root, for a /run/systemd of its own")
def test_a_device_s_seed_is_one_that_systemd_opens(machine: Machine) -> None:
    """By the approvals' place and no option, as LoadCredentialEncrypted= does."""
    words = f"systemd-creds decrypt --tpm2-device={machine.device} --name={NAME} {NAME} -"
    script = f"mount -t tmpfs none /run/systemd && {words} || exit 3"
    given = f"cp {machine.approver.approvals} /run/systemd/tpm2-pcr-signature.json"

    def run(script: str) -> "subprocess.CompletedProcess[bytes]":
        tpm_device.flush(machine.device, tpm_device.volatile(machine.device))
        command = ["unshare", "-m", "sh", "-c", script]
        return subprocess.run(command, capture_output=True, cwd=machine.folder, check=False)

    assert run(script).returncode == 3  # no approvals
    done = run(script.replace("&&", f"&& {given} &&"))
    assert (done.returncode, done.stdout) == (0, machine.seed), done.stderr

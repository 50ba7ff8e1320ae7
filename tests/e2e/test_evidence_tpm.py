"""The TPM's provider before a whole TPM 2.0 in software, made ready by the documented commands.

A chip on a board isn't here to be tried: docs/enclave-hardware.md says how its owner does.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.evidence.tpm import COUNTER, Tpm
from qflare.faults import LocalFault
from qflare.verifiers import tpm as verifier
from tests.platforms.swtpm import SoftwareChip, software_chip
from tests.platforms.tpm import event_log
from tools import attest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("swtpm")]
DATA = bytes(range(64))
EVENTS = ((0, b"firmware"), (4, b"boot loader"), (9, b"initrd"))


@pytest.fixture
def chip(tmp_path: Path) -> Iterator[SoftwareChip]:
    with software_chip(tmp_path / "tpm") as made:
        made.prepare()
        yield made


def boot(chip: SoftwareChip, events: tuple[tuple[int, bytes], ...] = EVENTS) -> None:
    """What a firmware does: power, and one measurement after the other."""
    chip.off()
    chip.on()
    for pcr, what in events:
        chip.tool("tpm2_pcrextend", f"{pcr}:sha256={hashlib.sha256(what).hexdigest()}")


@pytest.mark.parametrize(("kind", "scheme"), [("rsa", "rsassa"), ("rsa", "rsapss")])
def test_keys_of_rsa(tmp_path: Path, kind: str, scheme: str) -> None:
    with software_chip(tmp_path / "tpm") as chip:
        chip.prepare(kind, scheme)
        with chip.device() as device:
            assert verifier.verify(Tpm(device).quote(DATA)).report_data == DATA


def test_a_quote_of_a_measured_boot(chip: SoftwareChip) -> None:
    boot(chip)
    with chip.device() as device:
        provider = Tpm(device, event_log(EVENTS))
        facts = verifier.verify(provider.quote(DATA))
        assert facts.report_data == DATA
        assert facts.measurement == provider.measurement
        assert len(facts.registers) == 10
        # The signer is what tpm2-tools call the key's name, without its algorithm.
        assert facts.signer is not None
        assert (chip.folder / "ak.name").read_bytes() == b"\0\x0b" + facts.signer.raw
    boot(chip)
    with chip.device() as device:
        assert Tpm(device).measurement == facts.measurement  # the same at each boot
    boot(chip, (*EVENTS[:2], (9, b"another initrd")))
    with chip.device() as device:
        assert Tpm(device).measurement != facts.measurement


def test_sealed_states_outlive_a_boot_and_no_other(chip: SoftwareChip, tmp_path: Path) -> None:
    boot(chip)
    with chip.device() as device:
        sealed = Tpm(device).seal(b"state")
        assert b"state" not in sealed
    boot(chip)
    with chip.device() as device:
        assert Tpm(device).unseal(sealed) == b"state"
    boot(chip, (*EVENTS, (7, b"a key to sign boot loaders")))
    with chip.device() as device, pytest.raises(LocalFault, match="by other code"):
        Tpm(device).unseal(sealed)
    with software_chip(tmp_path / "other") as other:
        other.prepare()
        boot(other)
        with other.device() as device, pytest.raises(LocalFault, match="another platform"):
            Tpm(device).unseal(sealed)


def test_the_key_is_refused_once_the_machine_went_on(
    chip: SoftwareChip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names the good state in the key's template still can't use it in another one."""
    boot(chip)
    with chip.device() as device:
        good = Tpm(device)
    boot(chip, (*EVENTS, (9, b"a shell")))
    with chip.device() as device:
        other = Tpm(device)
        digest = hashlib.sha256(b"".join([bytes(32)] * 10)).digest()
        with pytest.raises(LocalFault, match="refuses 0x155"):
            other._derive(digest)
    assert other.measurement != good.measurement


def test_older_states_are_caught(chip: SoftwareChip) -> None:
    with chip.device() as device:
        provider = Tpm(device)
        first = provider.seal(b"first")
        provider.settle()
        second = provider.seal(b"second")
        provider.settle()
        provider.settle()  # once is as good as twice
    with chip.device() as device:
        with pytest.raises(LocalFault, match=r"number \d+, and the TPM counted"):
            Tpm(device).unseal(first)
        assert Tpm(device).unseal(second) == b"second"


def test_a_crash_before_the_counter_loses_nothing(chip: SoftwareChip) -> None:
    """Between the disk and the counter both states open; the one that is used ends the other."""
    with chip.device() as device:
        provider = Tpm(device)
        old = provider.seal(b"old")
        provider.settle()
        new = provider.seal(b"new")  # and the power goes
    boot(chip, ())
    with chip.device() as device:
        assert Tpm(device).unseal(old) == b"old"  # it had not reached the disk
        assert Tpm(device).unseal(new) == b"new"  # or it had
        with pytest.raises(LocalFault, match="the TPM counted"):
            Tpm(device).unseal(old)
        after = Tpm(device).seal(b"after")
        assert Tpm(device).unseal(after) == b"after"


def test_a_counter_that_was_made_anew_opens_nothing_older(chip: SoftwareChip) -> None:
    """Removing the counter doesn't bring it back to one: a TPM goes on above its highest."""
    with chip.device() as device:
        provider = Tpm(device)
        states = []
        for n in range(3):
            states.append(provider.seal(bytes([n])))
            provider.settle()
    chip.tool("tpm2_nvundefine", hex(COUNTER), "-C", "o")
    with chip.device() as device, pytest.raises(LocalFault, match="refuses 0x14e"):
        Tpm(device)
    attributes = "nt=counter|authread|authwrite|no_da"
    chip.tool("tpm2_nvdefine", hex(COUNTER), "-C", "o", "-s", "8", "-a", attributes)
    chip.tool("tpm2_nvincrement", hex(COUNTER))
    with chip.device() as device:
        for state in states[:-1]:
            with pytest.raises(LocalFault, match="the TPM counted"):
                Tpm(device).unseal(state)


def test_the_tool_for_owners(
    chip: SoftwareChip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    boot(chip)
    (tmp_path / "log").write_bytes(event_log(EVENTS))
    monkeypatch.setattr(attest, "EVENT_LOG", str(tmp_path / "log"))
    words = ["quote", "tpm", "--pcrs", "0,4,9", "--output", str(tmp_path / "evidence")]
    with chip.device() as device, monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_: device)
        assert attest.main(words) == 0
    measured = capsys.readouterr().out.splitlines()[1]
    assert attest.main(["verify", str(tmp_path / "evidence")]) == 0
    shown = capsys.readouterr().out
    assert measured in shown.splitlines()
    for line in ("tier         tpm", "until        -"):
        assert line in shown.splitlines()
    assert [line[:4] for line in shown.splitlines() if line.startswith("pcr")] == [
        "pcr0", "pcr4", "pcr9"
    ]  # fmt: skip
    assert attest.main(["quote", "tpm", "--root", "/dev/null", "--pcrs", "24", *words[-2:]]) == 1
    assert "from 0 to 23" in capsys.readouterr().err


def test_a_tpm_that_isnt_ready_is_said(tmp_path: Path) -> None:
    with (
        software_chip(tmp_path / "tpm") as chip,
        chip.device() as device,
        pytest.raises(LocalFault, match="refuses 0x173"),
    ):
        Tpm(device)
    with open("/dev/null", "rb") as null, pytest.raises(LocalFault, match="doesn't answer"):  # noqa: PTH123
        Tpm(null.fileno())

"""An attestation key is found to be in a genuine TPM: by a whole TPM in software with a certificate
of its maker's authority, and by the commands that docs/enclave-hardware.md gives.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.evidence.tpm import Tpm
from qflare.host import attestation_key
from qflare.verifiers import tpm as verifier
from tests.platforms.swtpm import SoftwareChip, documented, software_chip

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("swtpm")]


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareChip]:
    with software_chip(tmp_path_factory.mktemp("certified") / "tpm", certified=True) as made:
        made.prepare()
        yield made


def authorities(chip: SoftwareChip, folder: Path) -> Path:
    path = folder / "makers.pem"
    parts = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
    path.write_bytes(b"".join((chip.authority / part).read_bytes() for part in parts))
    return path


def challenge(chip: SoftwareChip, folder: Path, **other: Path) -> int:
    words = {
        "certificate": chip.folder / "ek.der", "authorities": authorities(chip, folder),
        "key": chip.folder / "public", "secret": folder / "secret",
        "output": folder / "challenge",
    } | other  # fmt: skip
    flat = [word for name, path in words.items() for word in (f"--{name}", str(path))]
    return attestation_key.main(["challenge", *flat])


def activate(chip: SoftwareChip, folder: Path) -> Path:
    """On the host, by the documented commands."""
    shutil.copy(folder / "challenge", chip.folder / "challenge")
    try:
        for words in documented("`challenge` goes back"):
            chip.tool(*words)
    finally:
        chip.tool("tpm2_flushcontext", "-l")
    return chip.folder / "answer"


def accept(chip: SoftwareChip, folder: Path, answer: Path) -> int:
    words = ["--key", str(chip.folder / "public"), "--secret", str(folder / "secret")]
    return attestation_key.main(["accept", *words, "--answer", str(answer)])


def test_the_owner_takes_a_genuine_key(
    chip: SoftwareChip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert challenge(chip, tmp_path) == 0
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    assert accept(chip, tmp_path, activate(chip, tmp_path)) == 0
    with chip.device() as device:
        facts = verifier.verify(Tpm(device).quote(bytes(64)))
    assert capsys.readouterr().out.strip() == str(facts.signer)


def test_another_secret_is_no_answer(
    chip: SoftwareChip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert challenge(chip, tmp_path) == 0
    (tmp_path / "guess").write_bytes(bytes(32))
    assert accept(chip, tmp_path, tmp_path / "guess") == 1
    assert "another secret came back" in capsys.readouterr().err


def test_a_maker_that_the_owner_doesnt_name(
    chip: SoftwareChip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = tmp_path / "root.pem"
    only.write_bytes((chip.authority / "swtpm-localca-rootca-cert.pem").read_bytes())
    assert challenge(chip, tmp_path, authorities=only) == 1
    assert "none of the given authorities" in capsys.readouterr().err
    assert not (tmp_path / "secret").exists()


def test_the_secret_is_for_one_key(chip: SoftwareChip, tmp_path: Path) -> None:
    """A challenge for a key that isn't in the TPM is not opened for the one that is."""
    other = chip.folder / "other"
    chip.tool("tpm2_createak", "-C", "ek.ctx", "-c", "o.ctx", "-G", "ecc", "-g", "sha256",
              "-s", "ecdsa", "-u", str(other), "-n", "o.name")  # fmt: skip
    assert challenge(chip, tmp_path, key=other) == 0
    with pytest.raises(AssertionError, match="integrity"):
        activate(chip, tmp_path)

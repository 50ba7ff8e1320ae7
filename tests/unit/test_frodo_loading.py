"""Loading liboqs: only for the suite that wants it, never building it, and silently."""

import os
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path

import pytest

from qflare import zoo
from qflare.crypto.keys import KemPublicKey, SigningKey
from qflare.crypto.suites import DEFAULT, FRODO640AES_MLDSA44, SUITES
from qflare.envelope import sign
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.suites import suite_named
from qflare.messages import ZERO, EnclaveClaims
from qflare.names import Digest, FleetId
from qflare.owners import open_manifest
from qflare.simulate import options, provision
from tests.oqs_kit import needs_liboqs

ROOT = Path(__file__).parent.parent.parent
USE = """
from qflare.crypto.provider import provider_of
from qflare.crypto.suites import FRODO640AES_MLDSA44
from qflare.faults import LocalFault
try:
    provider_of(FRODO640AES_MLDSA44)
except LocalFault as fault:
    raise SystemExit(f"refused: {fault}")
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def trapped(tmp_path: Path) -> dict[str, str]:
    """A home without liboqs, and a git and a cmake that tell that they were called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("git", "cmake"):
        (tools / name).write_text(f"#!/bin/sh\n: > {tmp_path}/called\n")
        (tools / name).chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"
    return {"OQS_INSTALL_PATH": str(tmp_path / "oqs"), "HOME": str(tmp_path), "PATH": path}


@pytest.mark.skipif(find_library("oqs") is not None, reason="the system has a liboqs")
def test_without_the_library_oqs_is_not_imported(tmp_path: Path) -> None:
    environment = trapped(tmp_path)
    (tmp_path / "oqs.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    found = run(USE, **environment, PYTHONPATH=str(tmp_path))
    assert found.stderr.startswith("refused: liboqs can't be used")
    assert "OQS_INSTALL_PATH" in found.stderr
    assert "pip install" in found.stderr
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "called").exists()


@pytest.mark.skipif(find_library("oqs") is not None, reason="the system has a liboqs")
@pytest.mark.parametrize("content", [b"", b"no library"])
def test_a_broken_library_is_not_replaced_by_one_built_now(tmp_path: Path, content: bytes) -> None:
    environment = trapped(tmp_path)
    (tmp_path / "oqs" / "lib").mkdir(parents=True)
    (tmp_path / "oqs" / "lib" / "liboqs.so").write_bytes(content)
    found = run(USE, **environment, PYOQS_VERSION="0.16.0")
    assert found.stderr.startswith("refused: liboqs can't be used")
    assert found.stdout == ""
    assert not (tmp_path / "called").exists()


@needs_liboqs
def test_loading_prints_nothing() -> None:
    found = run(USE)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_default_suite_never_loads_it() -> None:
    code = """
import sys, enclave.server, coordinator.daemon, edge_runtime.daemon
from qflare.crypto.keys import KemPrivateKey
from qflare.crypto.suites import DEFAULT
key = KemPrivateKey.generate(DEFAULT)
key.open(key.public.seal(b"m", b""), b"")
print(*sorted({"oqs", "qflare.crypto.liboqs", "qflare.crypto.frodo"} & set(sys.modules)))
"""
    assert run(code).stdout.strip() == ""


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Dilithium2", "became ML-DSA-44 .* frodo640aes-mldsa44;"),
        ("dilithium-2", "became ML-DSA-44"),
        ("Dilithium3", "became ML-DSA-65"),
        ("kyber768-dilithium5", "Dilithium became ML-DSA"),
        ("Kyber768", "Kyber became ML-KEM"),
        ("ML-DSA-44", "signs in frodo640aes-mldsa44"),
        ("FrodoKEM-640-AES", "the one suite with FrodoKEM is frodo640aes-mldsa44"),
        ("eFrodoKEM-640-AES", "one message a key"),
        ("rsa", "no suite 'rsa'; choose from xwing-mldsa65, frodo640aes-mldsa44"),
    ],
)
def test_a_name_of_old_is_explained(name: str, meant: str) -> None:
    with pytest.raises(LocalFault, match=meant):
        suite_named(name)
    with pytest.raises(LocalFault, match=f"--suite: .*{meant}"):
        options.Options(suite=name)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_is_found_by_its_name(suite: object) -> None:
    assert suite_named(str(suite)) is suite


def test_suites_are_not_mixed_in_one_fleet() -> None:
    """The owner's key fixes the suite; a manifest or claims of another are refused."""
    fleet = FleetId("fleet")
    owner = provision.Owner.make(fleet, FRODO640AES_MLDSA44)
    wanted = options.bounds(options.policy(options.Options()))
    coordinator = SigningKey.generate(FRODO640AES_MLDSA44)
    signed = owner.manifest(coordinator, zoo.load("watch_cnn"), wanted, Digest.of(b"code"))
    manifest, _ = open_manifest(signed, owner.key.verify_key, fleet)
    mixed = sign(replace(manifest, suite=DEFAULT.name), owner.key)
    with pytest.raises(PeerFault) as caught:
        open_manifest(mixed, owner.key.verify_key, fleet)
    assert caught.value.reason is Reason.WRONG_SUITE
    theirs = sign(manifest, SigningKey.generate(DEFAULT))
    with pytest.raises(PeerFault):
        open_manifest(theirs, owner.key.verify_key, fleet)


def test_the_ceiling_of_claims_holds_the_suites_keys() -> None:
    for suite in SUITES:
        claims = EnclaveClaims(
            fleet=FleetId("f" * 32),
            suite=suite.name,
            manifest=ZERO,
            round=2**31 - 1,
            opened_at=2**63 - 1,
            epoch=2**63 - 1,
            step=1,
            policy=ZERO,
            cohort=ZERO,
            model=ZERO,
            state=ZERO,
            receipt=ZERO,
            kem_key=bytes(suite.kem_public_length),
            signing_key=bytes(suite.verify_key_length),
        )
        assert EnclaveClaims.parse(claims.to_bytes()) == claims


def test_a_key_of_another_suite_in_claims_is_none() -> None:
    with pytest.raises(PeerFault) as caught:
        KemPublicKey.parse(FRODO640AES_MLDSA44, bytes(DEFAULT.kem_public_length))
    assert caught.value.reason is Reason.MALFORMED

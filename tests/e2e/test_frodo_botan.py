"""Botan 3, another library, understands liboqs's salted FrodoKEM-640-AES and is understood.

Where no Python here has botan3, a Debian 13 is made for it in a folder, in half a minute.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qflare.crypto import liboqs
from tests.oqs_kit import needs_liboqs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

VECTORS = Path(__file__).parent.parent / "vectors" / "frodo-x25519.json"
MIRROR = "http://deb.debian.org/debian"
BOTAN = """
import json, sys
import botan3 as botan

given, name = json.load(sys.stdin), "FrodoKEM-640-AES"
key = botan.PrivateKey.load_frodokem(name, bytes.fromhex(given["private_key"]))
public = key.get_public_key().to_raw()
opener = botan.KemDecrypt(key, "Raw")
opened = [opener.decrypt_shared_key(b"", 16, bytes.fromhex(ct)).hex() for ct in given["ct"]]
rng = botan.RandomNumberGenerator("system")
made = botan.KemEncrypt(botan.PublicKey.load_frodokem(name, public), "Raw")
shared, ct = made.create_shared_key(rng, b"", 16)
told = {"public": public.hex(), "opened": opened, "shared": shared.hex(), "ct": ct.hex()}
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A Python that has botan3, as a command."""
    for here in (sys.executable, "/usr/bin/python3"):
        found = subprocess.run([here, "-c", "import botan3"], check=False, capture_output=True)
        if found.returncode == 0:
            return [here]
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("no Python has botan3 (Debian 13: python3-botan), and this isn't root with "
                    "mmdebstrap, to make a Debian that has it")  # fmt: skip
    root = tmp_path_factory.mktemp("trixie") / "root"
    made = subprocess.run(
        ["mmdebstrap", "--variant=essential", "--include=python3-minimal,python3-botan", "trixie",
         str(root), MIRROR],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip(f"no Debian 13 can be made here: {made.stderr[-200:]}")
    return ["chroot", str(root), "/usr/bin/python3"]


@needs_liboqs
def test_botan_and_liboqs_understand_each_other(python: list[str]) -> None:
    vectors = json.loads(VECTORS.read_text())
    good = [case for case in vectors["cases"] if case["expect"] == "ok"]
    private = bytes.fromhex(vectors["private_key"])[: liboqs.SECRET]
    ciphertexts = [case["sealed"][2 : 2 + 2 * liboqs.CIPHERTEXT] for case in good]
    given = json.dumps({"private_key": private.hex(), "ct": ciphertexts})
    ended = subprocess.run(
        [*python, "-c", BOTAN], input=given, check=True, capture_output=True, text=True
    )
    botan = json.loads(ended.stdout)
    assert vectors["public_key"].startswith(botan["public"])
    assert botan["opened"] == [case["ss_frodo"] for case in good]
    assert len(botan["ct"]) == 2 * liboqs.CIPHERTEXT
    with liboqs.frodo(private) as kem:
        assert kem.decap_secret(bytes.fromhex(botan["ct"])).hex() == botan["shared"]

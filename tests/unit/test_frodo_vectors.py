"""Vectors of suite frodo640aes-mldsa44 (for another library's word: e2e/test_frodo_botan.py)."""

import json
from pathlib import Path
from typing import Any

import pytest

from qflare.crypto import frodo
from qflare.crypto.keys import KemPrivateKey
from qflare.crypto.suites import FRODO640AES_MLDSA44 as SUITE
from qflare.crypto.suites import parse_aead
from qflare.faults import PeerFault
from tests.oqs_kit import needs_liboqs

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "frodo-x25519.json").read_text()
)
PUBLIC = bytes.fromhex(VECTORS["public_key"])
CASES = [pytest.param(c, id=f"{c['comment']}-{c['expect']}") for c in VECTORS["cases"]]
GOOD = [case for case in VECTORS["cases"] if case["expect"] == "ok"]


@needs_liboqs
@pytest.mark.parametrize("case", CASES)
def test_each_case_opens_or_is_refused_as_expected(case: dict[str, str]) -> None:
    key = KemPrivateKey.from_seed(SUITE, bytes.fromhex(VECTORS["private_key"]))
    assert key.public.raw == PUBLIC
    try:
        opened = key.open(bytes.fromhex(case["sealed"]), bytes.fromhex(case["info"]))
        outcome = "ok" if opened.hex() == case["plaintext"] else "another plaintext"
    except PeerFault as fault:
        outcome = str(fault.reason)
    assert outcome == case["expect"]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case["comment"])
def test_the_combiner_gives_the_same_keys_without_liboqs(case: dict[str, str]) -> None:
    sealed, info = bytes.fromhex(case["sealed"]), bytes.fromhex(case["info"])
    secrets = bytes.fromhex(case["ss_frodo"] + case["ss_x25519"])
    assert len(secrets) == 16 + 32
    cipher, nonce = frodo._keyed(
        parse_aead(SUITE, sealed[0]), secrets + sealed[1:9785] + PUBLIC, info
    )
    assert nonce.hex() == case["nonce"]
    assert cipher.decrypt(nonce, sealed[9785:], None).hex() == case["plaintext"]
    assert frodo.LABEL.hex() == VECTORS["label"]


def test_there_are_cases_of_every_outcome() -> None:
    assert {"algorithm", "source", "version", "licence", "cases"} <= set(VECTORS)
    expected = {case["expect"] for case in VECTORS["cases"]}
    assert expected == {"ok", "cannot_open", "malformed", "wrong_suite"}

"""Published vectors, run through QFLARE's own types (see tests/vectors/README.md)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

from qflare import proofs
from qflare.crypto import pyca
from qflare.crypto.keys import KemPrivateKey, KemPublicKey, Signature, SigningKey, VerifyKey
from qflare.crypto.suites import XWING_MLDSA65 as SUITE
from qflare.faults import PeerFault, Reason
from qflare.names import Digest

VECTORS = Path(__file__).parent.parent / "vectors"
NAMES = ("ml-kem-768", "ml-dsa-65", "hpke-xwing", "merkle")
Case = dict[str, Any]


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return loaded


def cases(name: str, *, good: bool = False) -> pytest.MarkDecorator:
    chosen = [case for case in load(name)["cases"] if case["expect"] == "ok" or not good]
    return pytest.mark.parametrize(
        "case", [pytest.param(c, id=f"{n}-{c['expect']}") for n, c in enumerate(chosen)]
    )


def unhex(case: Case, *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def open_case(case: Case, key: KemPrivateKey, pk: bytes) -> None:
    assert KemPublicKey.parse(SUITE, pk) == key.public
    sealed, info, plaintext = unhex(case, "sealed", "info", "plaintext")
    assert key.open(sealed, info) == plaintext
    assert len(sealed) == len(plaintext) + SUITE.seal_overhead


def ml_kem_768(case: Case) -> None:
    d, z, x25519_seed, pk = unhex(case, "d", "z", "x25519_seed", "pk")
    key = KemPrivateKey.from_seed(SUITE, d + z + x25519_seed)
    open_case(case, key, pk + key.public.raw[1184:])


def hpke_xwing(case: Case) -> None:
    seed, pk = unhex(case, "seed", "pkRm")
    open_case(case, KemPrivateKey.from_seed(SUITE, seed), pk)


def ml_dsa_65(case: Case) -> None:
    # The published contexts are random bytes, and VerifyKey takes none but QFLARE's own names; so
    # the last step asks the library below it.
    pk, message, context, raw = unhex(case, "pk", "msg", "ctx", "signature")
    key, signature = VerifyKey.parse(SUITE, pk), Signature.parse(SUITE, raw)
    try:
        pyca.verify_key(SUITE, key.raw).verify(signature.raw, message, context)
    except InvalidSignature:
        raise PeerFault(Reason.BAD_SIGNATURE, "") from None


def merkle_tree(case: Case) -> None:
    proof = tuple(Digest.parse(node) for node in case["proof"])
    root, size = Digest.parse(case["root"]), case["size"]
    if case["kind"] == "inclusion":
        leaf = bytes.fromhex(case["leaf"])
        proofs.verify_inclusion(leaf, case["index"], size, proof, root)
    else:
        old_root = Digest.parse(case["old_root"])
        proofs.verify_consistency(case["old_size"], old_root, size, root, proof)


def outcome(run: Callable[[Case], None], case: Case) -> str:
    try:
        run(case)
    except PeerFault as fault:
        return str(fault.reason)
    return "ok"


@cases("ml-kem-768")
def test_ml_kem_768(case: Case) -> None:
    assert outcome(ml_kem_768, case) == case["expect"], case["comment"]


@cases("hpke-xwing")
def test_hpke_xwing(case: Case) -> None:
    assert outcome(hpke_xwing, case) == case["expect"], case["comment"]


@cases("ml-dsa-65")
def test_ml_dsa_65(case: Case) -> None:
    assert outcome(ml_dsa_65, case) == case["expect"], case["comment"]


@cases("merkle")
def test_merkle(case: Case) -> None:
    assert outcome(merkle_tree, case) == case["expect"]


@cases("ml-dsa-65", good=True)
def test_ml_dsa_65_keys_and_contexts(case: Case) -> None:
    key = SigningKey.from_seed(SUITE, bytes.fromhex(case["xi"]))
    assert key.verify_key.raw.hex() == case["pk"]
    signature = Signature.parse(SUITE, bytes.fromhex(case["signature"]))
    with pytest.raises(PeerFault):  # a true signature, but for no message of ours
        key.verify_key.verify("update-header", bytes.fromhex(case["msg"]), signature)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_where_it_is_from_and_what_to_expect(name: str) -> None:
    loaded = load(name)
    assert {"algorithm", "source", "version", "licence", "cases"} <= set(loaded)
    expected = {case["expect"] for case in loaded["cases"]}
    assert "ok" in expected
    assert len(expected) > 1

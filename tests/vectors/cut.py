"""Cut the slices in this folder from the published vectors.

    pip download --no-deps cryptography-vectors==50.0.2
    python tests/vectors/cut.py cryptography_vectors-50.0.2-py3-none-any.whl

QFLARE opens whole HPKE messages and never hands out a shared secret, so a published ML-KEM secret
is turned into a message that only this secret opens. The two formulas which that takes, X-Wing's
combiner and RFC 9180's key schedule, are written out here and held against the published HPKE
vector before they are used. Nothing is random: a second run writes the same bytes.
"""

import hashlib
import hmac
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

HERE = Path(__file__).parent
WHEEL_SHA256 = "51641f03a3eb4edbe9fb68e3a3574d25f86aa502d06391fffa886330d02778a0"
ORIGIN = {
    "source": "PyPI cryptography-vectors, file %s",
    "version": "50.0.2",
    "licence": "Apache-2.0 OR BSD-3-Clause",
    "copyright": "The Python Cryptographic Authority and individual contributors",
}
INFO = b"qflare/1/vector"
PLAINTEXT = b"one update, sealed"
AES, CHACHA = 2, 3
Case = dict[str, Any]


def records(text: str) -> Iterator[dict[str, str]]:
    """The records of a NIST response file."""
    record: dict[str, str] = {}
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if name.strip() == "count" and record:
            yield record
            record = {}
        if sign:
            record[name.strip()] = value.strip()
    yield record


def xwing_secret(ss_m: bytes, ss_x: bytes, ct_x: bytes, pk_x: bytes) -> bytes:
    """draft-connolly-cfrg-xwing-kem, section 5.3 (Combiner)."""
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + bytes.fromhex("5c2e2f2f5e5c")).digest()


def key_schedule(secret: bytes, info: bytes, aead: int) -> tuple[bytes, bytes]:
    """RFC 9180, section 5.1, base mode, KEM 0x647a, HKDF-SHA256: (key, base nonce)."""
    suite = b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (0x647A, 1, aead))

    def extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")

    def expand(prk: bytes, label: bytes, context: bytes, length: int) -> bytes:
        message = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context
        return hmac.digest(prk, message + b"\x01", "sha256")[:length]  # one block is enough

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    prk = extract(secret, b"secret", b"")
    return expand(prk, b"key", context, 32), expand(prk, b"base_nonce", context, 12)


def sealed(secret: bytes, enc: bytes, aead: int) -> bytes:
    key, nonce = key_schedule(secret, INFO, aead)
    cipher = AESGCM(key) if aead == AES else ChaCha20Poly1305(key)
    return bytes([aead]) + enc + cipher.encrypt(nonce, PLAINTEXT, b"")


def flipped(data: bytes, at: int) -> str:
    changed = bytearray(data)
    changed[at] ^= 1
    return changed.hex()


def ml_kem(text: str) -> list[Case]:
    cases: list[Case] = []
    for n, record in enumerate(r for i, r in enumerate(records(text)) if i % 40 == 0):
        seed_x = hashlib.sha256(b"device %d" % n).digest()
        own = X25519PrivateKey.from_private_bytes(seed_x)
        other = X25519PrivateKey.from_private_bytes(hashlib.sha256(b"other %d" % n).digest())
        pk_x, ct_x = own.public_key().public_bytes_raw(), other.public_key().public_bytes_raw()
        rejected = n % 2 == 1
        ct, ss = (bytes.fromhex(record[k + "_n" * rejected]) for k in ("ct", "ss"))
        secret = xwing_secret(ss, own.exchange(other.public_key()), ct_x, pk_x)
        cases.append(
            {
                "comment": "implicit rejection" if rejected else "decapsulation",
                "d": record["d"],
                "z": record["z"],
                "pk": record["pk"],
                "ct": ct.hex(),
                "ss": ss.hex(),
                "x25519_seed": seed_x.hex(),
                "info": INFO.hex(),
                "plaintext": PLAINTEXT.hex(),
                "sealed": sealed(secret, ct + ct_x, AES if n % 4 < 2 else CHACHA).hex(),
                "expect": "ok",
            }
        )
    first = cases[0]
    message, pk = bytes.fromhex(first["sealed"]), bytes.fromhex(first["pk"])
    for comment, field, value, expect in (
        ("ciphertext of another key", "sealed", cases[2]["sealed"], "cannot_open"),
        ("ML-KEM ciphertext, one bit", "sealed", flipped(message, 1), "cannot_open"),
        ("X25519 part, one bit", "sealed", flipped(message, 1 + 1088), "cannot_open"),
        ("tag, one bit", "sealed", flipped(message, -1), "cannot_open"),
        ("one byte short", "sealed", message[:-1].hex(), "cannot_open"),
        ("one byte long", "sealed", message.hex() + "00", "cannot_open"),
        ("shorter than the overhead", "sealed", message[:1136].hex(), "malformed"),
        ("named as the other AEAD", "sealed", "03" + first["sealed"][2:], "cannot_open"),
        ("AEAD that the suite has not", "sealed", "01" + first["sealed"][2:], "wrong_suite"),
        ("export-only AEAD", "sealed", "ff" + first["sealed"][2:], "wrong_suite"),
        ("empty", "sealed", "", "malformed"),
        ("other info", "info", b"qflare/1/vectors".hex(), "cannot_open"),
        ("no info", "info", "", "cannot_open"),
        ("a coefficient above q", "pk", (b"\xff\xff" + pk[2:]).hex(), "malformed"),
        ("public key one byte short", "pk", pk[:-1].hex(), "malformed"),
        ("public key one byte long", "pk", first["pk"] + "00", "malformed"),
    ):
        cases.append(first | {"comment": comment, field: value, "expect": expect})
    return cases


def ml_dsa(text: str) -> list[Case]:
    cases: list[Case] = []
    for record in (r for i, r in enumerate(records(text)) if i % 4 == 0):
        signature = record["sm"][: 2 * 3309]
        assert record["sm"][2 * 3309 :] == record["msg"]
        cases.append(
            {
                "comment": "deterministic signature",
                **{name: record[name] for name in ("xi", "pk", "msg", "ctx")},
                "signature": signature,
                "expect": "ok",
            }
        )
    first, second = cases[:2]
    raw = bytes.fromhex(first["signature"])
    for comment, field, value, expect in (
        ("commitment hash, one bit", "signature", flipped(raw, 0), "bad_signature"),
        ("response, one bit", "signature", flipped(raw, 1500), "bad_signature"),
        ("hint, last byte", "signature", flipped(raw, -1), "bad_signature"),
        ("zeros", "signature", "00" * 3309, "bad_signature"),
        ("all ones", "signature", "ff" * 3309, "bad_signature"),
        ("one byte short", "signature", raw[:-1].hex(), "malformed"),
        ("one byte long", "signature", first["signature"] + "00", "malformed"),
        ("empty", "signature", "", "malformed"),
        ("another signature", "signature", second["signature"], "bad_signature"),
        ("another message", "msg", second["msg"], "bad_signature"),
        ("empty message", "msg", "", "bad_signature"),
        ("another context", "ctx", second["ctx"], "bad_signature"),
        ("no context", "ctx", "", "bad_signature"),
        ("another key", "pk", second["pk"], "bad_signature"),
        ("public key one byte short", "pk", first["pk"][:-2], "malformed"),
        ("public key one byte long", "pk", first["pk"] + "00", "malformed"),
    ):
        cases.append(first | {"comment": comment, field: value, "expect": expect})
    return cases


def hpke(text: str) -> list[Case]:
    """The published X-Wing vector with HKDF-SHA256, sealed anew without associated data."""
    vector = next(v for v in json.loads(text) if v["kem_id"] == 0x647A and v["kdf_id"] == 1)
    v = {k: bytes.fromhex(x) for k, x in vector.items() if isinstance(x, str)}
    seed = hashlib.shake_256(v["skRm"]).digest(96)
    enc = v["enc"]
    own_x = X25519PrivateKey.from_private_bytes(seed[64:])
    ss_m = MLKEM768PrivateKey.from_seed_bytes(seed[:64]).decapsulate(enc[:1088])
    ss_x = own_x.exchange(X25519PublicKey.from_public_bytes(enc[1088:]))
    pk_x = own_x.public_key().public_bytes_raw()
    assert xwing_secret(ss_m, ss_x, enc[1088:], pk_x) == v["shared_secret"]
    assert key_schedule(v["shared_secret"], v["info"], CHACHA) == (v["key"], v["base_nonce"])
    published = {k: bytes.fromhex(x) for k, x in vector["encryptions"][0].items()}
    cipher = ChaCha20Poly1305(v["key"])
    assert cipher.encrypt(v["base_nonce"], published["pt"], published["aad"]) == published["ct"]
    common = {"skRm": v["skRm"].hex(), "pkRm": v["pkRm"].hex(), "seed": seed.hex()}
    anew = cipher.encrypt(v["base_nonce"], published["pt"], b"")
    cases: list[Case] = [
        {
            "comment": "published encapsulation, key and nonce; ciphertext without the aad",
            **common,
            "info": v["info"].hex(),
            "plaintext": published["pt"].hex(),
            "sealed": (bytes([CHACHA]) + enc + anew).hex(),
            "expect": "ok",
        },
        {
            "comment": "published encapsulation and shared secret; AES-256-GCM",
            **common,
            "info": INFO.hex(),
            "plaintext": PLAINTEXT.hex(),
            "sealed": sealed(v["shared_secret"], enc, AES).hex(),
            "expect": "ok",
        },
    ]
    with_aad = (bytes([CHACHA]) + enc + published["ct"]).hex()
    cases.append(
        cases[0]
        | {
            "comment": "the ciphertext as published: its aad is never QFLARE's",
            "sealed": with_aad,
            "expect": "cannot_open",
        }
    )
    return cases


def merkle() -> list[Case]:
    """Roots and proofs from RFC 9162's recursive definitions, over the customary eight leaves."""
    words = "-, 00, 10, 2021, 3031, 40414243, 5051525354555657, 606162636465666768696a6b6c6d6e6f"
    leaves = [bytes.fromhex(word.strip("-")) for word in words.split(", ")]

    def split(n: int) -> int:
        return 1 << ((n - 1).bit_length() - 1)

    def mth(d: list[bytes]) -> bytes:
        if len(d) < 2:
            return hashlib.sha256(b"\0" + d[0] if d else b"").digest()
        k = split(len(d))
        return hashlib.sha256(b"\1" + mth(d[:k]) + mth(d[k:])).digest()

    def path(m: int, d: list[bytes]) -> list[bytes]:
        if len(d) == 1:
            return []
        k = split(len(d))
        low, high = d[:k], d[k:]
        return [*path(m, low), mth(high)] if m < k else [*path(m - k, high), mth(low)]

    def subproof(m: int, d: list[bytes], whole: bool) -> list[bytes]:
        if m == len(d):
            return [] if whole else [mth(d)]
        k = split(len(d))
        if m <= k:
            return [*subproof(m, d[:k], whole), mth(d[k:])]
        return [*subproof(m - k, d[k:], False), mth(d[:k])]

    cases: list[Case] = []
    for new in range(1, 9):
        root = mth(leaves[:new]).hex()
        for index in range(new):
            proof = [node.hex() for node in path(index, leaves[:new])]
            case = {"kind": "inclusion", "leaf": leaves[index].hex(), "index": index, "size": new}
            cases.append(case | {"root": root, "proof": proof, "expect": "ok"})
        for old in range(1, new + 1):
            proof = [node.hex() for node in subproof(old, leaves[:new], True)]
            case = {"kind": "consistency", "old_size": old, "size": new, "root": root}
            case |= {"old_root": mth(leaves[:old]).hex(), "proof": proof}
            cases.append(case | {"expect": "ok"})
    good = [case for case in cases if case["size"] == 7]
    cases += [c | {"proof": [*c["proof"], "00" * 32], "expect": "bad_proof"} for c in good]
    cases += [c | {"proof": c["proof"][:-1], "expect": "bad_proof"} for c in good if c["proof"]]
    cases += [c | {"root": "00" * 32, "expect": "bad_proof"} for c in good]
    return cases


def write(name: str, header: Case, cases: list[Case]) -> None:
    """One case a line, so that a difference can be read."""
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    head = json.dumps(header, indent=1)[:-2]
    (HERE / name).write_text(f'{head},\n "cases": [\n{lines}\n ]\n}}\n')


def main(wheel: Path) -> None:
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise SystemExit(f"{wheel}: not the wheel of cryptography-vectors 50.0.2 that was cut")
    for algorithm, name, path, cut in (
        ("ML-KEM-768", "ml-kem-768.json", "asymmetric/MLKEM/kat_MLKEM_768.rsp", ml_kem),
        ("ML-DSA-65", "ml-dsa-65.json", "asymmetric/MLDSA/kat_MLDSA_65_det_pure.rsp", ml_dsa),
        ("HPKE 0x647a HKDF-SHA256", "hpke-xwing.json", "HPKE/hpke-pq-test-vectors.json", hpke),
    ):
        text = zipfile.ZipFile(wheel).read(f"cryptography_vectors/{path}").decode()
        origin = ORIGIN | {"source": ORIGIN["source"] % path}
        write(name, {"algorithm": algorithm, **origin}, cut(text))
    own = {"source": "RFC 9162's definitions, by cut.py", "version": "1", "licence": "Apache-2.0"}
    write("merkle.json", {"algorithm": "RFC 9162 Merkle tree, SHA-256", **own}, merkle())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Make frodo-x25519.json: `python -m tests.vectors.make_frodo`, with liboqs installed.

Encapsulations come from liboqs and X25519 directly, and the combiner is spelled here a second time,
with HKDF (RFC 5869) on HMAC; nothing of qflare/crypto has a part in it. They are randomised, so a
second run writes other bytes that mean the same.
"""

import hmac
import json
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from qflare.crypto.liboqs import library

FILE = Path(__file__).parent / "frodo-x25519.json"
LABEL = b"qflare/1/frodo640aes-mldsa44\0FrodoKEM-640-AES/salted+X25519"
PLAINTEXT = b"a conservative update"
INFO = b"what it answers"


def hkdf(ikm: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 without a salt."""
    prk = hmac.digest(bytes(32), ikm, "sha256")
    out = block = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes([number]), "sha256")
        out += block
    return out[:length]


def encapsulate(name: str, public: bytes) -> tuple[bytes, bytes]:
    """Ciphertext and shared secret of one of liboqs's KEMs."""
    with library().KeyEncapsulation(name) as kem:
        return kem.encap_secret(public)  # type: ignore[no-any-return]


def case(comment: str, public: bytes, aead: int, info: bytes, **kem: str) -> dict[str, str]:
    """One sealed message, and every value on the way to it."""
    ct_frodo, ss_frodo = encapsulate(kem.get("kem", "FrodoKEM-640-AES"), public[:9616])
    own = X25519PrivateKey.generate()
    ct_x25519 = own.public_key().public_bytes_raw()
    ss_x25519 = own.exchange(X25519PublicKey.from_public_bytes(public[9616:]))
    ikm = ss_frodo + ss_x25519 + ct_frodo + ct_x25519 + public + LABEL
    key, nonce = (made := hkdf(ikm, bytes([aead]) + info, 44))[:32], made[32:]
    sealed = (AESGCM if aead == 2 else ChaCha20Poly1305)(key).encrypt(nonce, PLAINTEXT, None)
    return {
        "comment": comment,
        "expect": "ok",
        "info": info.hex(),
        "plaintext": PLAINTEXT.hex(),
        "ss_frodo": ss_frodo.hex(),
        "ss_x25519": ss_x25519.hex(),
        "key": key.hex(),
        "nonce": nonce.hex(),
        "sealed": (bytes([aead]) + ct_frodo + ct_x25519 + sealed).hex(),
    }


def cases(public: bytes) -> Iterator[dict[str, str]]:
    """Two good ones, and others with one thing changed."""
    good = case("AES-256-GCM", public, 2, INFO)
    yield good
    yield case("ChaCha20-Poly1305, empty info", public, 3, b"")
    sealed = bytes.fromhex(good["sealed"])
    aead, frodo, x25519, rest = sealed[:1], sealed[1:9753], sealed[9753:9785], sealed[9785:]
    other = bytes.fromhex(case("", public, 2, INFO)["sealed"])
    flipped = frodo[:9751] + bytes([frodo[9751] ^ 1])  # in the salt
    shown = ("comment", "expect", "info", "plaintext", "sealed")
    for comment, expect, changed in (
        ("the halves change places", "cannot_open", aead + x25519 + frodo + rest),
        ("another encapsulation's X25519", "cannot_open", aead + frodo + other[9753:9785] + rest),
        ("the salt's last bit", "cannot_open", aead + flipped + x25519 + rest),
        ("the other AEAD", "cannot_open", b"\x03" + sealed[1:]),
        ("an AEAD of no number", "wrong_suite", b"\x01" + sealed[1:]),
        ("an X25519 key of small order", "cannot_open", aead + frodo + bytes(32) + rest),
        ("cut before the end of the tag", "malformed", sealed[:9800]),
    ):
        yield dict(
            zip(
                shown,
                (comment, expect, INFO.hex(), PLAINTEXT.hex(), changed.hex()),
                strict=True,
            )
        )
    yield {name: good[name] for name in shown} | {
        "comment": "another info",
        "expect": "cannot_open",
        "info": b"what else".hex(),
    }
    for padding, expect in ((b"", "malformed"), (b"\0" * 32, "cannot_open")):
        short = case("", public, 2, INFO, kem="eFrodoKEM-640-AES")
        yield {name: short[name] for name in shown} | {
            "comment": f"the ephemeral variant (9,720 bytes) and {len(padding)} bytes",
            "expect": expect,
            "sealed": (bytes.fromhex(short["sealed"]) + padding).hex(),
        }


def main() -> None:
    """Write the file."""
    with library().KeyEncapsulation("FrodoKEM-640-AES") as kem:
        frodo_public, frodo_secret = kem.generate_keypair(), kem.export_secret_key()
    x25519 = X25519PrivateKey.generate()
    public = frodo_public + x25519.public_key().public_bytes_raw()
    body = {
        "algorithm": "FrodoKEM-640-AES (salted) and X25519, HKDF-SHA256",
        "source": "tests/vectors/make_frodo.py",
        "version": f"liboqs {library().oqs_version()}",
        "licence": "Apache-2.0",
        "label": LABEL.hex(),
        "private_key": (frodo_secret + x25519.private_bytes_raw()).hex(),
        "public_key": public.hex(),
        "cases": list(cases(public)),
    }
    FILE.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()

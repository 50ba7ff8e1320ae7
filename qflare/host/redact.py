"""What may leave this process as text: decided by a value's type and by its name.

Only plain values pass. Bytes never do, whatever they are called: an update, a key and a password
file all look alike from here. Text passes unless its name says that it is a secret.
"""

import re
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from numbers import Integral, Real
from pathlib import PurePath

from qflare.names import Digest

MASK = "[hidden]"
TEXT_MAX = 500  # characters of any one value; the rest of an attacker's essay is cut
_ITEMS_MAX = 50
_DEPTH_MAX = 4

# fmt: off
_SECRET_WORDS = frozenset(
    (
        "password", "passwd", "passphrase", "pwd", "secret", "secrets", "key", "keys", "token",
        "tokens", "seed", "seeds", "payload", "payloads", "credential", "credentials", "auth",
        "authorization", "cookie", "pin", "private", "plaintext", "ciphertext", "body",
    )
)
# fmt: on
_SECRET_RUNS = ("password", "passwd", "passphrase", "secret", "apikey", "privatekey", "credential")
# A name that ends in one of these speaks about the secret and doesn't hold it.
_ABOUT = frozenset(
    ("file", "path", "dir", "id", "digest", "size", "count", "bytes", "length", "kind", "epoch")
)
_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
_PRIVATE_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def looks_secret(name: str) -> bool:
    """Does a field of this name hold a secret or a message's content?"""
    words = [word.lower() for word in _SPLIT.split(name) if word]
    joined = "".join(words)
    if words and words[-1] in _ABOUT:
        return False
    return bool(_SECRET_WORDS.intersection(words)) or any(run in joined for run in _SECRET_RUNS)


def clean_text(text: str) -> str:
    """One line of printable text of at most TEXT_MAX characters, without any private key."""
    if _PRIVATE_PEM.search(text):
        return MASK
    if len(text) > TEXT_MAX:
        text = f"{text[:TEXT_MAX]}… ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def clean(value: object, name: str = "", depth: int = 0) -> object:
    """Return `value` as something JSON can hold and a stranger may see."""
    if value is None or isinstance(value, bool):
        return value
    if looks_secret(name):
        return MASK
    match value:
        case bytes() | bytearray() | memoryview():
            return f"<{memoryview(value).nbytes} bytes>"
        case Enum():
            return clean(value.value, depth=depth + 1)
        case str():
            return clean_text(str(value))
        case Integral():
            return int(value)
        case Real():
            return float(value)
        case Digest():
            return str(value)
        case PurePath():
            return clean_text(str(value))
        case BaseException():
            return clean_text(f"{type(value).__name__}: {value}")
    if depth < _DEPTH_MAX:
        if isinstance(value, Mapping):
            items = list(value.items())[:_ITEMS_MAX]
            return {clean_text(str(k)): clean(v, str(k), depth + 1) for k, v in items}
        if isinstance(value, Sequence | Set):
            return [clean(item, depth=depth + 1) for item in list(value)[:_ITEMS_MAX]]
    return f"<{type(value).__name__}>"

"""Model files with one thing wrong, made from good ones without TensorFlow.

Bytes are replaced by as many others, so that every offset in the file stays right.
"""

from tests import models


def replaced(name: str, old: bytes, new: bytes, count: int = 1) -> bytes:
    """The model with `old` replaced where it first (or `count` times) is; both as long."""
    data = models.tflite(name)
    assert len(old) == len(new)
    assert old in data, f"{name} has no {old!r}"
    return data.replace(old, new, count)

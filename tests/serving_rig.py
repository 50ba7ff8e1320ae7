"""Slots with models in them, for the tests of what applications use."""

from edge_runtime.slots import SlotManifest
from qflare.names import Digest


def file_of(model: Digest) -> bytes:
    """Stands for an application's file where nobody runs it."""
    return b"file of " + model.raw


def manifest_of(model: Digest, correct: int = 0) -> SlotManifest:
    return SlotManifest(
        model=str(model),
        graph="0" * 64,
        file=str(Digest.of(file_of(model))),
        name="tiny",
        version=1,
        task="classification",
        input={},
        output=[2],
        classes=["a", "b"],
        batch=4,
        examples=10,
        correct=correct,
    )

"""TFLite files that weren't made for QFLARE; `make.py` makes them."""

from pathlib import Path
from typing import Final

NAMES: Final = (
    "custom_operator",
    "flex_operator",
    "newer_operator",
    "no_signature",
    "quantised",
    "scalar_input",
    "uninitialised",
)


def path(name: str) -> Path:
    return Path(__file__).parent / f"{name}.tflite"

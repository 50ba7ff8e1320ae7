"""Trainable models that come with QFLARE, each beside the script that makes it."""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Final

from qflare.faults import LocalFault
from qflare.names import Digest
from qflare.schedule import Schedule

MODELS: Final = ("watch_cnn",)


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A model's three files as bytes; `edge_runtime.contract.parse_contract` reads the first two.

    `weights` are the initial weights: little-endian float32, flat, in the manifest's order.
    """

    name: str
    manifest: bytes
    tflite: bytes
    weights: bytes


def load(name: str) -> ZooModel:
    """Read the model called `name` from this package; LocalFault if missing or altered."""
    if name not in MODELS:
        raise LocalFault(f"no model is called {name!r}; choose from: {', '.join(MODELS)}")
    folder = resources.files(__name__) / name
    try:
        manifest = (folder / f"{name}.json").read_bytes()
        says = json.loads(manifest)
        parts = {part: (folder / says[part]["file"]).read_bytes() for part in ("tflite", "weights")}
        for part, content in parts.items():
            if str(Digest.of(content)) != says[part]["sha256"]:
                raise LocalFault(f"{folder / says[part]['file']} is altered; install qflare again")
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise LocalFault(f"model {name!r} cannot be read ({fault}); install qflare again") from None
    return ZooModel(name, manifest, parts["tflite"], parts["weights"])


def recommended_schedule(name: str, rounds: int = 20) -> Schedule:
    """A schedule under which `name` learns well; benchmarks/reference says how it was chosen."""
    if name not in MODELS:
        raise LocalFault(f"no model is called {name!r}; choose from: {', '.join(MODELS)}")
    return Schedule(
        rounds=rounds,
        local_epochs=3,
        learning_rate=0.05,
        learning_rate_final_fraction=0.03,
        server_momentum=0.6,
        server_learning_rate=1.0,
    )

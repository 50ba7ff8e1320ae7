"""Trainable models that come with QFLARE, each beside the script that makes it."""

from importlib import resources
from typing import Final

from qflare.faults import LocalFault, PeerFault
from qflare.host.model import ModelFile, read_model
from qflare.schedule import Schedule

MODELS: Final = ("watch_cnn",)


def load(name: str) -> ModelFile:
    """Read the model called `name` from this package; LocalFault if missing or altered."""
    if name not in MODELS:
        raise LocalFault(f"no model is called {name!r}; choose from: {', '.join(MODELS)}")
    path = resources.files(__name__) / name / f"{name}.tflite"
    try:
        return read_model(path.read_bytes())
    except (OSError, PeerFault) as fault:
        raise LocalFault(f"model {name!r} cannot be read ({fault}); install qflare again") from None


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

"""Trainable models that come with QFLARE, each beside the Keras model that it is made of.

`<name>/model.py` is an ordinary Keras model, to be read and copied; `qflare.zoo.make` builds
`<name>/<name>.tflite` of it, as build.toml and schema.toml say.
"""

from importlib import resources
from typing import Final

from qflare.faults import LocalFault, PeerFault
from qflare.host.model import ModelFile, read_model
from qflare.schedule import Schedule
from qflare.zoo.entries import ENTRIES, Entry

__all__ = ["MODELS", "Entry", "entry", "load", "recommended_schedule"]

MODELS: Final = tuple(ENTRIES)


def entry(name: str) -> Entry:
    """What is known of the model called `name`; LocalFault if there is none."""
    try:
        return ENTRIES[name]
    except KeyError:
        known = ", ".join(MODELS)
        raise LocalFault(f"no model is called {name[:40]!r}; choose from: {known}") from None


def load(name: str) -> ModelFile:
    """Read the model called `name` from this package; LocalFault if missing or altered."""
    path = resources.files(__name__) / entry(name).name / f"{name}.tflite"
    try:
        return read_model(path.read_bytes())
    except (OSError, PeerFault) as fault:
        raise LocalFault(f"model {name!r} cannot be read ({fault}); install qflare again") from None


def recommended_schedule(name: str, rounds: int | None = None) -> Schedule:
    """A schedule under which `name` learns well, for `rounds` or as many as are worth it."""
    known = entry(name)
    return known.schedule if rounds is None else known.schedule_for(rounds)

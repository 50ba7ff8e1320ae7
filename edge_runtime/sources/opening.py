"""Opens whatever the configuration names, as examples of a model."""

from pathlib import Path

from edge_runtime.contract import ModelContract
from edge_runtime.pacing import Pace, Unpaced
from edge_runtime.sources.base import Source
from edge_runtime.sources.ring import cipher_of
from edge_runtime.sources.settings import DataSection


def open_source(
    settings: DataSection,
    contract: ModelContract,
    scratch: Path,
    previous: Source | None = None,
    key: bytes | None = None,
    pace: Pace | None = None,
) -> Source:
    """The device's data, checked against the model; LocalFault says what doesn't suit, and why.

    `scratch` is a private folder for what is made of files once, `previous` the source that isn't
    fresh any more: what it knows of files that are the same needn't be found out again. `key` is
    of collected samples, and of what is made of tables: 32 bytes if the device has a storage key.
    Checking a large folder takes minutes on a card; `pace` is asked between two pieces of it.
    """
    pace = pace or Unpaced()
    match settings.kind:
        case "npz":
            from edge_runtime.sources.npz import NpzSource

            return NpzSource(settings.path, contract, pace)
        case "npz-folder":
            from edge_runtime.sources.npz_folder import NpzFolder

            return NpzFolder(settings, contract, pace)
        case "camera":
            from edge_runtime.sources.camera import Pictures

            return Pictures(settings, contract, pace)
        case "plugin" if settings.plugin.mode == "examples":
            from edge_runtime.sources.supplied import Supplied

            return Supplied(settings, contract)
    from edge_runtime.sources.windowed import RowSource

    known = previous if isinstance(previous, RowSource) else None
    return RowSource(settings, contract, scratch, known, cipher_of(key), pace)

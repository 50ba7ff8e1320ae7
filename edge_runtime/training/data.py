"""The samples of a job, opened in the training process as the configuration says."""

from pathlib import Path
from typing import TYPE_CHECKING

from qflare.faults import LocalFault

if TYPE_CHECKING:
    from edge_runtime.contract import ModelContract
    from edge_runtime.pacing import Pace
    from edge_runtime.sources.base import Source
    from edge_runtime.sources.settings import DataSection


def open_data(
    section: bytes,
    contract: "ModelContract",
    scratch: Path,
    previous: "Source | None" = None,
    key: bytes | None = None,
    pace: "Pace | None" = None,
) -> "Source":
    """The source that a data section (JSON) names; LocalFault if it doesn't suit the model.

    `scratch`, `previous`, `key` and `pace` are those of `open_source`.
    """
    from edge_runtime.sources.opening import open_source

    return open_source(_settings(section), contract, scratch, previous, key, pace)


def mark_of(section: bytes) -> dict[str, int]:
    """What of this source there is now, as a round's journal remembers it."""
    from edge_runtime.sources.arrivals import Arrivals

    return Arrivals(_settings(section)).mark().counters()


def _settings(section: bytes) -> "DataSection":
    from edge_runtime.sources.settings import DataSection
    from qflare.host.typed import Unfit, decode

    try:
        return decode(DataSection, section)
    except Unfit as error:
        raise LocalFault(f"the data section of edge.toml: {error}; correct it there") from None

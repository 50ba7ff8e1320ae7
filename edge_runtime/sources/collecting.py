"""What is collected, as files of samples say it. No numpy."""

from edge_runtime.sources.record import channel_of, stored_names
from edge_runtime.sources.segment import Head
from edge_runtime.sources.settings import DataSection


def head_of(settings: DataSection) -> Head:
    """What the rows of a source's files are."""
    names = stored_names(settings)
    units = tuple(channel_of(settings, name).unit for name in names)
    return Head("qflare-samples/1", names, units, settings.rate_hz, 0, False)

"""For every test."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that ran here set up logs for itself: to a stream that ends with its test."""
    yield
    structlog.reset_defaults()

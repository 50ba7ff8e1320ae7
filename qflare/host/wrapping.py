"""Words in the columns of a terminal. Pure."""

import textwrap
from typing import Final

_WIDTH: Final = 80
_LEAST: Final = 38  # columns of text, however far it is indented


def wrapped(text: str, first: str, then: str) -> list[str]:
    """Lines of eighty columns that begin with `first` and `then`; a path or option isn't broken."""
    return textwrap.wrap(
        text,
        max(_WIDTH, len(then) + _LEAST),
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )

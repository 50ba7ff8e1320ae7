"""Plain text for people: aligned, at most 80 columns, no colour. Pure."""

import textwrap
from collections.abc import Sequence
from typing import Final

WIDTH: Final = 80


def table(
    rows: Sequence[Sequence[object]], right: Sequence[int] = (), indent: int = 2
) -> list[str]:
    """Rows as aligned columns; those in `right` at the right. The first column gives way."""
    if not rows:
        return []
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    over = indent + sum(widths) + 2 * (len(widths) - 1) - WIDTH
    if over > 0:
        widths[0] = max(widths[0] - over, 12)
    lines = []
    for row in cells:
        shown = [
            short(cell, width).rjust(width) if i in right else short(cell, width).ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * indent + "  ".join(shown)).rstrip())
    return lines


def short(text: str, width: int) -> str:
    """The text, or as much of it as fits."""
    return text if len(text) <= width else text[: width - 1] + "…"


def words(text: str, indent: int = 2, hanging: int = 0) -> list[str]:
    """A paragraph, wrapped; lines after the first are indented by `hanging` more."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hanging),
        break_on_hyphens=False,
    )


def size(count: float) -> str:
    """Bytes as people say them."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5 or unit == "GB":
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
    raise AssertionError


def tensor(dtype: str, shape: Sequence[int]) -> str:
    """Type and shape; a dimension that is known only when the model runs is a question mark."""
    return f"{dtype}[{', '.join('?' if side < 0 else str(side) for side in shape)}]"


def duration(seconds: float) -> str:
    """A time with three digits."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if seconds < limit:
            value = seconds * factor
            return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"

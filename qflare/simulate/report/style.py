"""One look for every picture, and SVG that takes its colours and its type from the page.

matplotlib is imported only when something is drawn. Drawing is deterministic: fixed hash salt, no
date, text kept as text. The hexadecimal colours below become CSS variables in the page, so that a
picture follows the reader's light or dark mode; in a PNG they are what they are.
"""

import io
import re
from typing import Any

INK, MUTED, GRID, PAPER = "#1b2733", "#5f6f7f", "#e4e9ee", "#fefefe"
ACCENT, ACCENT_SOFT = "#1d63c4", "#a9c8f0"
SECOND, SECOND_SOFT = "#c4691d", "#f0c9a4"
PLAIN = "#8a97a5"

VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    ACCENT: "--accent",
    ACCENT_SOFT: "--accent-soft",
    SECOND: "--second",
    SECOND_SOFT: "--second-soft",
    PLAIN: "--plain",
}

_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qflare",
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


def canvas(width: float, height: float, columns: int = 1, **rc: Any) -> tuple[Any, Any]:
    """A figure of `width` x `height` points and its axes, in the report's look.

    The figure is made without pyplot: no global state, no display, no figure left open.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings = {**_RC, **rc}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        axes = figure.subplots(1, columns)
    return figure, axes


def svg(figure: Any, name: str, label: str) -> str:
    """The figure as an inline SVG element whose ids start with `name` (a word).

    `label` is what a screen reader says; it must be free of untrusted text.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context(
        {"svg.fonttype": _RC["svg.fonttype"], "svg.hashsalt": _RC["svg.hashsalt"]}
    ):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawing = out.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', drawing)
    head = f'<svg role="img" aria-label="{label}" {box.group() if box else ""}>'
    drawing = re.sub(r"<svg[^>]*>", head, drawing, count=1)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    drawing = drawing.replace("xlink:href", "href")
    drawing = re.sub(r"font: ((?:\w+ )?)([\d.]+)px [^;\"]*", _font, drawing)
    for colour, variable in VARIABLES.items():
        drawing = drawing.replace(colour, f"var({variable})")
    return drawing.strip()


def _font(match: re.Match[str]) -> str:
    weight = match.group(1).strip()
    return f"font-size: {match.group(2)}px" + (f"; font-weight: {weight}" if weight else "")

"""Writing a report down."""

from pathlib import Path

from qflare.simulate.report.document import to_text
from qflare.simulate.report.html import render
from qflare.simulate.report.model import Report
from qflare.simulate.report.overview import render_png


def write(report: Report, folder: Path) -> tuple[Path, Path, Path]:
    """Write report.json, report.html and report.png (an overview) into `folder`; returns the paths.

    The figures are written before the page is drawn, so that a failure to draw loses no figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures, page, overview = (folder / f"report.{kind}" for kind in ("json", "html", "png"))
    figures.write_text(to_text(report), encoding="utf-8")
    page.write_text(render(report), encoding="utf-8")
    render_png(report, overview)
    return figures, page, overview

"""Writing a report down."""

from pathlib import Path

from qflare.simulate.report.document import to_text
from qflare.simulate.report.html import render
from qflare.simulate.report.model import Report


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write report.json and report.html into `folder`; returns both paths.

    The figures are written before the page is drawn, so that a failure to draw loses no figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures, page = folder / "report.json", folder / "report.html"
    figures.write_text(to_text(report), encoding="utf-8")
    page.write_text(render(report), encoding="utf-8")
    return figures, page

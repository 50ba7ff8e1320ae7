"""One compact picture of a run, for a README."""

from pathlib import Path

from qflare.simulate.report.charts import (
    draw_accuracy,
    draw_loss,
    draw_stages,
    draw_update_size,
)
from qflare.simulate.report.model import Report
from qflare.simulate.report.style import INK, MUTED, canvas


def render_png(report: Report, path: Path) -> None:
    """Write accuracy or loss, update size and stage times to `path`, 1200 x 420 pixels."""
    figure, axes = canvas(1200, 420, columns=3)
    figure.patch.set_facecolor("white")
    figure.get_layout_engine().set(w_pad=0.16, h_pad=0.1, wspace=0.03)
    what = "accuracy" if report.counted else "loss"
    titles = (
        (f"Test {what} by round", "federated and sealed, beside plain float arithmetic"),
        ("Size of one update", "the signature and the KEM are a fixed cost"),
        ("Time by stage", "blue: one device; orange: the enclave, all devices"),
    )
    draw_quality = draw_accuracy if report.counted else draw_loss
    draws = (draw_quality, draw_update_size, draw_stages)
    for ax, draw, (title, subtitle) in zip(axes, draws, titles, strict=True):
        draw(ax, report)
        ax.set_title(f"{title}\n", loc="left", fontsize=14, weight="bold", color=INK)
        ax.text(0, 1.03, subtitle, transform=ax.transAxes, fontsize=10.5, color=MUTED)
    figure.savefig(path, format="png", dpi=72, metadata={"Software": None})

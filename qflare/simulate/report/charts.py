"""The pictures of the page, each drawn from the report's figures alone."""

from collections.abc import Callable, Sequence
from typing import Any

from qflare.simulate.report.model import Report, RoundFigures
from qflare.simulate.report.style import (
    ACCENT,
    ACCENT_SOFT,
    INK,
    MUTED,
    PLAIN,
    SECOND,
    SECOND_SOFT,
    canvas,
    svg,
)
from qflare.simulate.report.words import duration, percent, printable, ratio, size

WIDTH, HEIGHT = 500, 300
_TICK_EVERY = (1, 5, 10, 25, 50, 100, 250, 1000)  # rounds between two labels
NAMED_DEVICES = 32  # more bars than this can't be labelled

STAGE_LABELS = {
    "appraise": "appraise offer",
    "fetch": "fetch model",
    "train": "train",
    "compress": "clip, compress",
    "seal": "seal, sign",
    "transfer": "transfer",
    "evaluate": "evaluate model",
    "open": "open round",
    "admit": "verify, open, add",
    "release": "step, sign",
}


def accuracy(report: Report) -> str:
    """Pooled test accuracy by round, beside the plain float run."""
    figure, axes = canvas(WIDTH, HEIGHT)
    draw_accuracy(axes, report)
    return svg(figure, "accuracy", "Pooled test accuracy by round")


def draw_accuracy(axes: Any, report: Report) -> None:
    """Draw the accuracy lines on `axes`."""
    _line(axes, report.released, lambda r: r.reference_accuracy, "plain float", False)
    _line(axes, report.released, lambda r: r.accuracy, "federated, sealed", True)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    _finish_rounds(axes, report.released)
    last = next((r for r in reversed(report.released) if r.accuracy is not None), None)
    if last is not None:
        axes.annotate(
            percent(last.accuracy),
            (last.step, last.accuracy),
            xytext=(0, -9),
            textcoords="offset points",
            ha="right",
            va="top",
            color=ACCENT,
            weight="bold",
        )
    _legend(axes, "lower right")


def loss(report: Report) -> str:
    """Mean test loss by round, beside the plain float run."""
    figure, axes = canvas(WIDTH, HEIGHT)
    draw_loss(axes, report)
    return svg(figure, "loss", "Mean test loss by round")


def draw_loss(axes: Any, report: Report) -> None:
    """Draw the loss lines on `axes`."""
    _line(axes, report.released, lambda r: r.reference_loss, "plain float", False)
    _line(axes, report.released, lambda r: r.loss, "federated, sealed", True)
    axes.set_ylim(bottom=0)
    _finish_rounds(axes, report.released)
    _legend(axes, "lower left")


def devices(report: Report) -> str:
    """Accuracy of the final model on every device's own test part, best first."""
    scored = [(d.accuracy, d.name) for d in report.per_device if d.accuracy is not None]
    scored.sort(reverse=True)
    values = [value for value, _ in scored]
    if len(scored) > NAMED_DEVICES:
        figure, axes = canvas(WIDTH, HEIGHT)
        ranks = range(1, len(scored) + 1)
        axes.fill_between(ranks, values, color=ACCENT_SOFT, linewidth=0)
        axes.plot(ranks, values, color=ACCENT)
        axes.axhline(report.final_accuracy, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel("devices, best first")
        return svg(figure, "devices", "Accuracy of the final model by device")
    figure, axes = canvas(WIDTH, max(140, 46 + 19 * len(scored)))
    rows = list(range(len(scored)))
    axes.barh(rows, values, height=0.66, color=ACCENT_SOFT)
    for row, value in enumerate(values):
        axes.text(1.1, row, percent(value, 0), va="center", ha="right", color=INK, fontsize=10.5)
    if report.final_accuracy is not None:
        axes.axvline(report.final_accuracy, color=ACCENT, linewidth=1.5)
        axes.set_title(
            f"pooled {percent(report.final_accuracy)}", loc="left", fontsize=11, color=ACCENT
        )
    axes.set_yticks(rows, [printable(name) for _, name in scored], parse_math=False, fontsize=10.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.grid(axis="y", visible=False)
    return svg(figure, "devices", "Accuracy of the final model by device")


def update_size(report: Report) -> str:
    """One update: as float32, as codec output, and as it stands on the wire."""
    figure, axes = canvas(WIDTH, 210)
    draw_update_size(axes, report)
    return svg(figure, "size", "Size of one update in three forms")


def draw_update_size(axes: Any, report: Report) -> None:
    """Draw the three forms of an update on `axes`."""
    sizes = report.sizes
    wire, encoded = sizes.wire or 0, sizes.encoded or 0
    axes.barh([0, 1], [sizes.float32 or 0, encoded], height=0.56, color=[PLAIN, ACCENT])
    left = 0.0
    parts = (
        (encoded, ACCENT, ""),
        (sizes.signature, SECOND, "signature"),
        (sizes.encapsulation, SECOND_SOFT, "KEM and tag"),
        (sizes.padding or 0, ACCENT_SOFT, "header, padding"),
    )
    for length, colour, label in parts:
        axes.barh(2, length, left=left, height=0.56, color=colour, label=label or None)
        left += length
    whole = max(sizes.float32 or 0, wire, 1)
    for row, value in enumerate((sizes.float32, sizes.encoded, sizes.wire)):
        label = size(value)
        if row and sizes.float32 and value:
            label += f", {ratio(sizes.float32, value)} smaller"
        axes.text((value or 0) + whole * 0.012, row, label, va="center", color=INK, fontsize=11)
    axes.set_yticks([0, 1, 2], ["float32", "codec output", "on the wire"])
    axes.invert_yaxis()
    axes.set_xlim(0, whole * 1.16)
    axes.xaxis.set_major_locator(_locator(4))
    axes.xaxis.set_major_formatter(lambda value, _: _axis_size(value))
    axes.grid(axis="y", visible=False)
    axes.legend(
        loc="upper right",
        bbox_to_anchor=(1, 0.7),
        labelcolor=MUTED,
        frameon=False,
        fontsize=10.5,
        handlelength=1,
        labelspacing=0.3,
    )


def round_bytes(report: Report) -> str:
    """All updates of a round together, in the same three forms."""
    figure, axes = canvas(WIDTH, 240)
    steps = [r.number for r in report.per_round]
    axes.bar(steps, [r.float32_bytes for r in report.per_round], 0.8, color=PLAIN, alpha=0.35)
    axes.bar(steps, [r.update_bytes for r in report.per_round], 0.8, color=SECOND_SOFT)
    axes.bar(steps, [r.encoded_bytes for r in report.per_round], 0.8, color=ACCENT)
    axes.yaxis.set_major_locator(_locator(4))
    axes.yaxis.set_major_formatter(lambda value, _: _axis_size(value))
    _finish_rounds(axes, report.per_round, by_number=True)
    axes.grid(axis="x", visible=False)
    _legend_above(axes, ("as float32", "on the wire", "codec output"))
    return svg(figure, "bytes", "Bytes of all updates by round")


def round_time(report: Report) -> str:
    """Wall time of each round: some device trains, or none does."""
    figure, axes = canvas(WIDTH, HEIGHT)
    known = [r for r in report.per_round if r.overhead_s is not None]
    numbers = [r.number for r in known]
    training = [r.training_s or 0 for r in known]
    axes.bar(numbers, training, 0.8, color=ACCENT_SOFT)
    axes.bar(numbers, [r.overhead_s for r in known], 0.8, bottom=training, color=SECOND)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    _finish_rounds(axes, known, by_number=True)
    axes.grid(axis="x", visible=False)
    _legend_above(axes, ("some device trains", "everything else"))
    return svg(figure, "time", "Wall time by round")


def stages(report: Report) -> str:
    """Each stage's usual time: median and 10th to 90th percentile, on a logarithmic axis."""
    figure, axes = canvas(WIDTH, 70 + 25 * max(1, len(report.per_stage)))
    draw_stages(axes, report)
    return svg(figure, "stages", "Time by stage")


def draw_stages(axes: Any, report: Report) -> None:
    """Draw medians and ranges by stage on `axes`."""
    shown = [s for s in report.per_stage if s.median_s > 0]
    for row, stage in enumerate(shown):
        colour = ACCENT if stage.where == "device" else SECOND
        low = max(stage.low_s, stage.median_s / 100)
        axes.plot([low, stage.high_s], [row, row], color=colour, alpha=0.3, linewidth=7)
        axes.plot(stage.median_s, row, "o", color=colour, markersize=7)
        axes.annotate(
            duration(stage.median_s),
            (stage.high_s, row),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=10.5,
        )
    axes.set_xscale("log")
    if shown:
        low = min(max(s.low_s, s.median_s / 100) for s in shown)
        axes.set_xlim(low / 2, max(s.high_s for s in shown) * 6)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.set_yticks(range(len(shown)), [STAGE_LABELS.get(s.name, s.name) for s in shown])
    axes.invert_yaxis()
    for label, stage in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color(ACCENT if stage.where == "device" else SECOND)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("logarithmic scale")


def _axis_size(value: float) -> str:
    return size(value).replace(".0 ", " ") if value else "0"


def _short(seconds: float) -> str:
    for unit, scale in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < scale * 999:
            return f"{seconds / scale:g} {unit}"
    return f"{seconds:g} s"


def _line(
    axes: Any,
    rounds: Sequence[RoundFigures],
    value: Callable[[RoundFigures], float | None],
    label: str,
    own: bool,
) -> None:
    points = [(r.step, y) for r in rounds if (y := value(r)) is not None]
    if points:
        steps, values = zip(*points, strict=True)
        style: dict[str, Any] = {"color": ACCENT, "marker": "o", "markersize": 4}
        if not own:
            style = {"color": PLAIN, "linestyle": (0, (4, 2.5)), "linewidth": 1.8}
        axes.plot(steps, values, label=label, **style)


def _finish_rounds(axes: Any, rounds: Sequence[RoundFigures], by_number: bool = False) -> None:
    numbers = [r.number if by_number else r.step for r in rounds] or [1]
    axes.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    every = next(n for n in _TICK_EVERY if max(numbers) <= 8 * n or n == _TICK_EVERY[-1])
    ticks = {1, *range(every, max(numbers) + 1, every)} if every > 1 else set(numbers)
    axes.set_xticks(sorted(t for t in ticks if t >= min(numbers)))
    axes.set_xlabel("round")


def _locator(bins: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(bins)


def _legend(axes: Any, place: str) -> None:
    if axes.lines:
        axes.legend(loc=place, labelcolor=MUTED, frameon=False, fontsize=11.5)


def _legend_above(axes: Any, labels: tuple[str, ...]) -> None:
    axes.legend(
        axes.containers,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(labels),
        borderaxespad=0.2,
        labelcolor=MUTED,
        frameon=False,
        fontsize=11,
        handlelength=1,
        handletextpad=0.5,
        columnspacing=1.4,
    )

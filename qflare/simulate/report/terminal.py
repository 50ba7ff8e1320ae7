"""The end of a run on the terminal: a table per round and the verdict.

With a terminal it is drawn by rich; without one it is plain text of the same content, so that a
log file stays readable.
"""

from collections.abc import Sequence
from typing import TextIO

from qflare.simulate.report.model import Report
from qflare.simulate.report.words import (
    duration,
    figure,
    percent,
    printable,
    reasons,
    size,
    verdict,
)

_COMMON = ("received", "bytes", "wall", "overhead", "")
# What a narrow terminal leaves out, first to last. It is all in the report's files.
_SPARE = ("overhead", "wall", "bytes", "loss", "received", "plain float", "")
_NOTE = 12  # columns in which a note can be read


def heads(report: Report) -> tuple[str, ...]:
    """The table's first line: accuracy and loss, or only the loss where there is no accuracy."""
    judged = ("accuracy", "plain float", "loss") if report.counted else ("loss", "plain float")
    return ("round", *judged, *_COMMON)


def rows(report: Report) -> list[tuple[str, ...]]:
    """The cells of the table, one row a round, under `heads`."""
    return [
        (
            f"{r.number}",
            *(
                (percent(r.accuracy), percent(r.reference_accuracy), figure(r.loss))
                if report.counted
                else (figure(r.loss), figure(r.reference_loss))
            ),
            f"{r.received}/{r.invited}",
            size(r.update_bytes),
            duration(r.wall_s),
            duration(r.overhead_s),
            ", ".join(
                note
                for note in (
                    "" if r.status == "released" else r.status or "not finished",
                    f"refused: {reasons(r.refused)}" if r.refused else "",
                )
                if note
            ),
        )
        for r in report.per_round
    ]


def fitting(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """Which columns of these lines, heads first, are shown whole in `width`; a note may wrap.

    The round and the figure beside it always are.
    """
    heads = lines[0]
    needs = [max(len(printable(line[i])) for line in lines) for i in range(len(heads))]
    kept = list(range(len(heads)))
    if not needs[-1]:
        kept.pop()
    for spare in _SPARE:
        if sum(min(needs[i], needs[i] if heads[i] else _NOTE) + 2 for i in kept) - 2 <= width:
            break
        kept = [i for i in kept if i < 2 or heads[i] != spare]
    return kept


def plain_text(report: Report) -> str:
    """Table and verdict as plain text, with a newline at the end."""
    lines = [heads(report), *(tuple(printable(cell) for cell in row) for row in rows(report))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    table = [_aligned(line, widths) for line in lines] if report.per_round else []
    sentences = [printable(sentence) for sentence in verdict(report)]
    return "\n".join([*table, *([""] if table else []), *sentences]) + "\n"


def show(report: Report, out: TextIO) -> None:
    """Write table and verdict to `out`, in colour when it is a terminal."""
    if not out.isatty():
        out.write(plain_text(report))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, highlight=False)
    lines = [heads(report), *rows(report)]
    kept = fitting(lines, console.width)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for head in (lines[0][i] for i in kept):
        table.add_column(head, justify="left" if not head else "right", no_wrap=bool(head))
    for row, figures in zip(lines[1:], report.per_round, strict=True):
        style = "" if figures.status == "released" else "red"
        table.add_row(*(Text(printable(row[i])) for i in kept), style=style)
    if report.per_round:
        console.print(table)
        console.print()
    for place, sentence in enumerate(verdict(report)):
        style = "bold red" if place == 0 and not report.ok else "bold" if place == 0 else ""
        if report.evidence_simulated and "SIMULATED" in sentence:
            style = "yellow"
        console.print(Text(printable(sentence)), style=style)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    *cells, note = line
    return "  ".join([*(c.rjust(w) for c, w in zip(cells, widths, strict=False)), note]).rstrip()

"""Live progress of a simulation: redrawn in place on a terminal, one line a round elsewhere.

Everything goes to standard error, so that standard output stays free for `--json`.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from qflare.simulate.report.words import (
    NONE,
    duration,
    figure,
    percent,
    plural,
    printable,
    size,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARKS = 40  # rounds in the sparkline
_NAMES = 6  # devices named as training


@dataclass(frozen=True)
class ProcessState:
    """One supervised process: "starting", "running", "restarting", "stopped" or "failed"."""

    name: str
    status: str
    restarts: int = 0


@dataclass(frozen=True)
class DisplayState:
    """A moment of the run; fractions in 0…1, sizes in bytes, times in seconds.

    `step` of `steps` is the round that runs; `accuracy` holds the pooled accuracy by released
    round, oldest first, and `judged` is the round whose model the last of them is about. Where
    there is no accuracy (`counted` is false), `loss` takes its place.
    `training` names devices that train or send: those that owe an update.
    """

    step: int
    steps: int
    phase: str
    elapsed_s: float
    invited: int = 0
    received: int = 0
    training: tuple[str, ...] = ()
    accuracy: tuple[float, ...] = ()
    loss: tuple[float, ...] = ()
    counted: bool = True
    judged: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    refused: int = 0
    trouble: str = ""  # who could not train in this round, and why
    processes: tuple[ProcessState, ...] = ()
    evidence: str = "insecure_simulated"
    evidence_simulated: bool = True

    @property
    def released(self) -> int:
        """Rounds that are done."""
        return min(max(len(self.accuracy), len(self.loss), self.step - 1, 0), self.steps)

    @property
    def quality(self) -> str:
        """The last accuracy, or the last loss, in words."""
        if self.counted:
            return percent(self.accuracy[-1] if self.accuracy else None)
        return figure(self.loss[-1] if self.loss else None)

    @property
    def quality_name(self) -> str:
        return "accuracy" if self.counted else "loss"

    @property
    def eta_s(self) -> float | None:
        """What is left, at the pace so far; None before the first round is done."""
        if not self.released or self.released == self.steps:
            return None
        return self.elapsed_s / self.released * (self.steps - self.released)


class Display(Protocol):
    """What a run reports its progress to; `stop` may be called at any time, more than once."""

    def start(self) -> None: ...
    def update(self, state: DisplayState) -> None: ...
    def stop(self) -> None: ...


def choose(out: TextIO | None = None) -> Display:
    """The display that suits `out` (standard error by default)."""
    out = sys.stderr if out is None else out
    redraws = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return LiveDisplay(out) if redraws else PlainDisplay(out)


def sparkline(values: Sequence[float]) -> str:
    """Values in 0…1 as a row of blocks, the newest on the right."""
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(min(max(v, 0.0), 1.0) * top)] for v in values[-_SPARKS:])


def evidence_line(state: DisplayState) -> str:
    """What the enclave's evidence is worth, in words that can't be missed."""
    note = " (simulated: it proves nothing)" if state.evidence_simulated else ""
    return f"evidence: {printable(state.evidence)}{note}"


class PlainDisplay:
    """One line for every finished round and for every change of a process."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._done = 0
        self._processes: dict[str, ProcessState] = {}
        self._said_evidence = False
        self._trouble = ""

    def start(self) -> None:
        """Nothing to prepare."""

    def update(self, state: DisplayState) -> None:
        """Write the lines that are due."""
        if not self._said_evidence and state.evidence:
            self._said_evidence = True
            self._line(evidence_line(state))
        for process in state.processes:
            known = self._processes.get(process.name)
            self._processes[process.name] = process
            if known is not None and known.restarts < process.restarts:
                self._line(f"{process.name} was restarted ({process.restarts} so far)")
            elif process.status == "failed" and (known is None or known.status != "failed"):
                self._line(f"{process.name} failed")
        if state.trouble and state.trouble != self._trouble:
            self._trouble = state.trouble
            self._line(state.trouble)
        if state.judged > self._done:
            self._done = state.judged
            self._line(
                f"round {self._done}/{state.steps}: {state.quality_name} {state.quality}, "
                f"{size(state.bytes_up)} up, {size(state.bytes_down)} down, "
                f"{state.refused} refused, {duration(state.elapsed_s)}"
            )

    def stop(self) -> None:
        """Nothing to put back."""

    def _line(self, text: str) -> None:
        self._out.write(printable(text) + "\n")
        self._out.flush()


class LiveDisplay:
    """A panel that is redrawn in place; needs rich and a terminal."""

    def __init__(self, out: TextIO, console: "Console | None" = None) -> None:
        from rich.console import Console

        self._console = console or Console(file=out, highlight=False)
        self._live: Live | None = None

    def start(self) -> None:
        """Begin to draw."""
        from rich.live import Live

        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def update(self, state: DisplayState) -> None:
        """Draw `state`."""
        if self._live is not None:
            self._live.update(panel(state), refresh=True)

    def stop(self) -> None:
        """Remove the panel and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def panel(state: DisplayState) -> "RenderableType":
    """The panel for one moment of the run."""
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1)
    head = Text(f"{state.step} of {state.steps}", style="bold")
    head.append(f"  {printable(state.phase)}", style="cyan")
    grid.add_row("round", head)
    grid.add_row("", ProgressBar(total=max(state.steps, 1), completed=state.released, width=44))
    grid.add_row("at work", Text(_training(state)))
    updates = Text(f"{state.received} of {state.invited} received" if state.invited else NONE)
    if state.refused:
        updates.append(f", {state.refused} refused", style="yellow")
    grid.add_row("updates", updates)
    if state.trouble:
        grid.add_row("trouble", Text(printable(state.trouble), style="red"))
    quality = Text(state.quality, style="bold")
    highest = max(state.loss, default=0) or 1.0
    line = state.accuracy if state.counted else [value / highest for value in state.loss]
    quality.append(f"  {sparkline(line)}", style="blue")
    grid.add_row(state.quality_name, quality)
    grid.add_row("bytes", f"{size(state.bytes_up)} up, {size(state.bytes_down)} down")
    left = "" if state.eta_s is None else f", about {duration(state.eta_s)} left"
    grid.add_row("time", f"{duration(state.elapsed_s)}{left}")
    grid.add_row("processes", _processes(state.processes))
    mark = "yellow" if state.evidence_simulated else "green"
    grid.add_row("", Text(evidence_line(state), style=mark))
    return Panel(grid, title="qflare simulate", title_align="left", border_style="dim")


def _training(state: DisplayState) -> str:
    if not state.training:
        return NONE
    names = ", ".join(printable(name) for name in state.training[:_NAMES])
    more = len(state.training) - _NAMES
    rest = f" and {more} more" if more > 0 else ""
    return f"{plural(len(state.training), 'device')}: {names}{rest}"


def _processes(processes: Sequence[ProcessState]) -> "RenderableType":
    from rich.text import Text

    colours = {"running": "green", "failed": "red", "starting": "cyan", "restarting": "yellow"}
    line = Text()
    for process in processes:
        line.append("● ", style=colours.get(process.status, "dim"))
        line.append(printable(process.name))
        if process.status != "running":
            line.append(f" {printable(process.status)}", style="dim")
        if process.restarts:
            line.append(f" ({plural(process.restarts, 'restart')})", style="yellow")
        line.append("   ")
    return line

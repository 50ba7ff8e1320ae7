"""What the technician sees: a line for each thing that is done."""

import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from qflare.host.redact import clean_text

if TYPE_CHECKING:
    from rich.status import Status

_WIDTH = 12


class Screen(Protocol):
    """Shows progress; asks."""

    def done(self, what: str, text: str, good: bool = True) -> None: ...
    def busy(self, what: str, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def ask(self, question: str) -> bool: ...
    def problem(self, text: str) -> None: ...
    def close(self) -> None: ...


class PlainScreen:
    """Lines, one for each step; `yes` answers every question."""

    def __init__(self, out: TextIO, yes: bool) -> None:
        self._out, self._yes = out, yes
        self._last = ""

    def done(self, what: str, text: str, good: bool = True) -> None:
        """Something is done, or has gone wrong."""
        self._line(f"{'ok' if good else '!!':3}{what:{_WIDTH}}{clean_text(text)}")

    def busy(self, what: str, text: str) -> None:
        """Something is being done."""
        self._line(f"..{'':1}{what:{_WIDTH}}{clean_text(text)}")

    def note(self, text: str) -> None:
        """Something to know."""
        self._line(f"   {clean_text(text)}")

    def ask(self, question: str) -> bool:
        """Yes or no; without anybody to ask, no."""
        if self._yes:
            return True
        self._out.write(f"?  {question} [y/n] ")
        self._out.flush()
        try:
            return sys.stdin.readline().strip().lower() in ("y", "yes", "j", "ja")
        except (OSError, ValueError):
            return False

    def problem(self, text: str) -> None:
        """What ended it, and what to do."""
        self._line(f"qflare: {clean_text(text)}")

    def close(self) -> None:
        """Nothing to put back."""

    def _line(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self._out.write(text.rstrip() + "\n")
            self._out.flush()


class RichScreen(PlainScreen):
    """The same on a terminal: what is being done shows as a spinner and leaves no line."""

    def __init__(self, out: TextIO, yes: bool) -> None:
        super().__init__(out, yes)
        from rich.console import Console

        self._console = Console(file=out, highlight=False)
        self._status: Status | None = None

    def done(self, what: str, text: str, good: bool = True) -> None:
        """A tick or a cross, and what came of it."""
        self._last = ""
        style = "green" if good else "bold red"
        self._row(("✓" if good else "✗", style, 2), (what, f"bold {style}", _WIDTH - 1), text=text)

    def busy(self, what: str, text: str) -> None:
        """The spinner's words."""
        from rich.markup import escape

        words = f"[bold]{escape(what):{_WIDTH}}[/bold]{escape(clean_text(text))}"
        if self._status is None:
            self._status = self._console.status(words)
            self._status.start()
        else:
            self._status.update(words)

    def note(self, text: str) -> None:
        """Something to know, and once while nothing else happens."""
        if text != self._last:
            self._last = text
            self._row(("", "", 2), text=text, style="dim")

    def problem(self, text: str) -> None:
        """What is wrong, and below it what to do."""
        what, _, remedy = text.partition("; ")
        self._row(("✗", "bold red", 2), text=what, style="bold red")
        self._row(("", "", 2), text=remedy)

    def _row(self, *cells: tuple[str, str, int], text: str, style: str = "") -> None:
        """Cells of a text, its style and a width; `text` goes on below its own beginning."""
        from rich.table import Table
        from rich.text import Text

        self.close()
        table = Table.grid(padding=(0, 1, 0, 0))
        for _, _, width in cells:
            table.add_column(width=width)
        table.add_column(overflow="fold")
        marks = [Text(mark, style=look) for mark, look, _ in cells]
        table.add_row(*marks, Text(clean_text(text), style=style))
        self._console.print(table)

    def ask(self, question: str) -> bool:
        """Yes or no."""
        self.close()
        return super().ask(question)

    def close(self) -> None:
        """Give the terminal back."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def choose(out: TextIO, yes: bool) -> Screen:
    """The screen that suits `out`."""
    if out.isatty():
        try:
            return RichScreen(out, yes)
        except ModuleNotFoundError:
            pass
    return PlainScreen(out, yes)

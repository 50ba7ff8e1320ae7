"""What the technician sees: a line for each thing that is done."""

import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from qflare.host.redact import clean_text

if TYPE_CHECKING:
    from rich.status import Status

_WIDTH = 10


class Screen(Protocol):
    """Shows progress; asks."""

    def done(self, what: str, text: str, good: bool = True) -> None: ...
    def busy(self, what: str, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def ask(self, question: str) -> bool: ...
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
        self.close()
        from rich.text import Text

        line = Text("✓  " if good else "✗  ", style="green" if good else "bold red")
        line.append(f"{what:{_WIDTH}}", style="bold").append(clean_text(text), style="default")
        self._console.print(line)

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
        """Something to know."""
        self.close()
        self._console.print(f"   {clean_text(text)}", markup=False, style="dim")

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

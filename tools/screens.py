"""Draw the pictures of docs/technician.md: the real command in a terminal, as it shows itself.

    python -m tools.screens [--columns 80] [--out docs/img]

Needs root (for a /dev/ttyUSB0 that leads to the board's pseudo-terminal), tmux, and mosquitto.
Broker, coordinator and qflare-provisiond are real; the board is a directory tree on this machine.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from itertools import pairwise
from pathlib import Path

from rich.color import ColorType
from rich.style import Style
from rich.text import Text

from tests.provision_field import PASSPHRASE, SETTINGS, Field, end, field

PORT = Path("/dev/ttyUSB0")
COLUMN, LINE, EDGE = 8.4, 18, 14  # pixels at 14 px
PAPER, INK = "#16181d", "#d7dae0"
COLOURS = {1: "#ff7b72", 2: "#5fd787", 3: "#e5c07b", 4: "#79b8ff", 5: "#d2a8ff", 6: "#56d4dd"}


class Terminal:
    """A shell in tmux."""

    def __init__(self, folder: Path, columns: int, lines: int = 60) -> None:
        self._tmux("kill-server", check=False)
        shell = f"cd {folder}; PS1='$ ' PATH={Path(sys.executable).parent}:$PATH bash --norc"
        self._tmux("new-session", "-d", "-x", str(columns), "-y", str(lines), shell)
        self._tmux("set", "-g", "status", "off")
        self.until("$ ")

    def _tmux(self, *words: str, check: bool = True) -> str:
        command = ["tmux", "-L", "qflare-screens", "-f", "/dev/null", *words]
        return subprocess.run(command, capture_output=True, text=True, check=check).stdout

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def until(self, text: str, seconds: float = 90.0) -> None:
        """Wait for this to be shown; a prompt, to be what is shown last."""
        stop = time.monotonic() + seconds
        while not self._shows(text, self._tmux("capture-pane", "-p").rstrip()):
            if time.monotonic() > stop:
                raise SystemExit(f"waited for {text!r}:\n{self._tmux('capture-pane', '-p')}")
            time.sleep(0.2)

    @staticmethod
    def _shows(text: str, shown: str) -> bool:
        return shown.endswith(text.rstrip()) if text.endswith("$ ") else text in shown

    def clear(self) -> None:
        self._tmux("send-keys", "C-l")
        time.sleep(0.3)

    def shown(self) -> list[Text]:
        """The lines with their colours, without the prompt that waits at the end."""
        lines = self._tmux("capture-pane", "-p", "-e").rstrip("\n").split("\n")
        found = [Text.from_ansi(line) for line in lines]
        while found and found[-1].plain.strip() in ("", "$"):
            found.pop()
        return found

    def close(self) -> None:
        self._tmux("kill-server", check=False)


def draw(lines: list[Text], columns: int) -> str:
    """A terminal's picture as SVG."""
    width, height = columns * COLUMN + 2 * EDGE, len(lines) * LINE + 2 * EDGE
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
        f'width="{width:.0f}" height="{height}" font-size="14" '
        f"font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\">",
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
    ]
    for row, line in enumerate(lines):
        y = EDGE + row * LINE + 13
        for start, text, style in _spans(line):
            if text.strip():
                x, wide = EDGE + start * COLUMN, len(text) * COLUMN
                out.append(
                    f'<text x="{x:.1f}" y="{y}" textLength="{wide:.1f}" xml:space="preserve"'
                    f"{_look(style)}>{escape(text)}</text>"
                )
    return "\n".join([*out, "</svg>\n"])


def _spans(line: Text) -> Iterator[tuple[int, str, Style]]:
    cuts = sorted({0, len(line), *(at for span in line.spans for at in (span.start, span.end))})
    for start, stop in pairwise(cuts):
        styles = [span.style for span in line.spans if span.start <= start < span.end]
        look = Style.combine([Style(), *(style for style in styles if isinstance(style, Style))])
        yield start, line.plain[start:stop], look


def _look(style: Style) -> str:
    fill = INK
    if style.color is not None and style.color.type is ColorType.STANDARD:
        fill = COLOURS.get((style.color.number or 0) % 8, INK)
    dim = ' opacity="0.65"' if style.dim else ""
    return f' fill="{fill}"{dim}' + (' font-weight="bold"' if style.bold else "")


@contextmanager
def port(leads_to: str) -> Iterator[None]:
    PORT.symlink_to(leads_to)
    try:
        yield
    finally:
        PORT.unlink()


async def record(here: Field, columns: int, out: Path) -> None:
    """Every screen in turn."""
    work = here.folder / "work"
    work.mkdir()
    (work / "tickets").symlink_to(here.tickets)
    (work / "wifi.txt").write_text(PASSPHRASE + "\n")
    (work / "data.toml").write_text(SETTINGS)
    terminal = Terminal(work, columns)

    def save(name: str) -> None:
        (out / f"{name}.svg").write_text(draw(terminal.shown(), columns))
        terminal.clear()

    command = (
        "qflare provision serial --port /dev/ttyUSB0 --ticket tickets/ \\\n"
        "  --wifi site7 --wifi-password-file wifi.txt --labels labels/ --jobs jobs/"
    )
    try:
        async with here.coordinator():
            await asyncio.to_thread(terminal.type, command)
            await asyncio.to_thread(terminal.until, "V\n$ ")
            save("provision-silent")
            board = await here.board()
            await asyncio.to_thread(terminal.type, command)
            await asyncio.to_thread(terminal.until, "[y/n]")
            here.cable.cut_after = here.cable.passed + 3000
            terminal.type("y")
            await asyncio.to_thread(terminal.until, "it was")
            here.cable.mend()
            await asyncio.to_thread(terminal.until, "$ ", 120)
            save("provision-serial")
            await end(board)
        (label,) = (work / "labels").glob("*.svg")
        (out / "provision-label.svg").write_text(label.read_text())
    finally:
        terminal.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with field(Path(folder)) as here:
            with port(here.cable.laptop):
                await record(here, arguments.columns, arguments.out)


if __name__ == "__main__":
    asyncio.run(main())

"""The label for a board's case: a QR code and the same in words. I/O."""

from html import escape
from pathlib import Path
from typing import Any, Final

from edge_runtime.provision.jobs import Record
from qflare.faults import LocalFault
from qflare.host.files import write_atomic

_FONT: Final = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def payload(record: Record) -> str:
    """What the QR code says: name, board, serial number, fingerprint. Nothing secret."""
    return f"qflare:1:{record.name}:{record.board}:{record.serial}:{record.fingerprint}"


def text(record: Record) -> str:
    """The label's words."""
    words = record.words.split()
    return (
        f"{record.name or '(not yet enrolled)'}\n"
        f"{record.board or 'board unknown'}  {record.serial}\n"
        f"{' '.join(words[:3])}\n{' '.join(words[3:])}\n"
        f"{record.updated[:10]}\n"
    )


def drawing(code: Any, words: str) -> str:
    """The code (of segno) and the words beside it, as one SVG to be printed."""
    size = code.symbol_size(scale=8, border=4)[0]
    lines = words.splitlines()
    step = size / (len(lines) + 1)
    wide = size + max(map(len, lines)) * step * 0.36
    texts = "".join(
        f'<text x="{size}" y="{step * row:.0f}" font-size="{step * 0.55:.0f}">{escape(line)}</text>'
        for row, line in enumerate(lines, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {size}" '
        f'width="{wide:.0f}" height="{size}" font-family="{_FONT}">'
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f"{code.svg_inline(scale=8, border=4)}{texts}</svg>\n"
    )


def save(record: Record, folder: Path) -> list[Path]:
    """Write <name>.txt (words), .png (code) and .svg (both); where. LocalFault without segno."""
    try:
        import segno
    except ModuleNotFoundError:
        raise LocalFault("labels need segno; run: pip install 'qflare[provision]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    stem = record.name or record.serial
    code = segno.make(payload(record), error="m", micro=False)
    paths = [folder / f"{stem}.{kind}" for kind in ("txt", "png", "svg")]
    write_atomic(paths[0], text(record).encode(), 0o644)
    code.save(str(paths[1]), scale=8, border=4)
    write_atomic(paths[2], drawing(code, text(record)).encode(), 0o644)
    return paths

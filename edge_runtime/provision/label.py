"""The label for a board's case: a QR code and the same in words. I/O."""

from pathlib import Path

from edge_runtime.provision.jobs import Record
from qflare.faults import LocalFault
from qflare.host.files import write_atomic


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


def save(record: Record, folder: Path) -> list[Path]:
    """Write <name>.txt, .svg and .png; where. LocalFault without segno."""
    try:
        import segno
    except ModuleNotFoundError:
        raise LocalFault("labels need segno; run: pip install 'qflare[provision]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    stem = record.name or record.serial
    code = segno.make(payload(record), error="m", micro=False)
    paths = [folder / f"{stem}.{kind}" for kind in ("txt", "svg", "png")]
    write_atomic(paths[0], text(record).encode(), 0o644)
    for path in paths[1:]:
        code.save(str(path), scale=8, border=4)
    return paths

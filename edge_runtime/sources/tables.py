"""CSV and Parquet files turned into files of samples, once each, so that any window can be read.

They are kept in a scratch folder under a name that says which file they were made of, and how; a
file that changed is made anew, and what nobody needs any more is removed.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from edge_runtime.pacing import Pace, Unpaced
from edge_runtime.sources.decoding import UNWANTED, Separated
from edge_runtime.sources.folder import Identity, folder_label
from edge_runtime.sources.record import Chooser, Fields, channel_of, label_numbers, stored_names
from edge_runtime.sources.segment import Cipher, Head, Rows, pack_block, pack_head, place_of
from edge_runtime.sources.settings import DataSection
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import ensure_private_dir, read_bounded, sync_dir, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode

LINE_MAX: Final = 1024 * 1024
PART_MAX: Final = 4 * 1024 * 1024  # bytes of one file of samples
_BLOCK: Final = 256 * 1024
_UNPACED: Final = Unpaced()
_STEP: Final = 1000  # lines: some ten milliseconds
_UNITS: Final = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3, "iso": 1e6}
_TIME_MAX: Final = 2**62


class Made(Typed):
    """What became of one table; written last, so that where it is, the parts are whole."""

    parts: int
    rows: int
    bad_rows: int
    first_fault: str = ""


@dataclass(frozen=True, slots=True)
class Converter:
    """Turns the tables of one source into files of samples in `scratch`."""

    settings: DataSection
    scratch: Path
    cipher: Cipher | None
    names: tuple[str, ...]  # channels; those of the model if the configuration names none
    pace: Pace = _UNPACED

    def head(self) -> Head:
        """Of the files that it makes."""
        settings = self.restated()
        names = stored_names(settings)
        units = tuple(channel_of(settings, name).unit for name in names)
        timed = settings.time.field is not None
        sealed = self.cipher is not None
        return Head("qflare-samples/1", names, units, settings.rate_hz, 0, sealed, timed)

    def restated(self) -> DataSection:
        """The settings, with channels even where the configuration names none."""
        from edge_runtime.sources.settings import Channel

        settings = self.settings
        if settings.channels:
            return settings
        channels = tuple(Channel(name) for name in self.names)
        return msgspec.structs.replace(settings, channels=channels)

    def key(self, name: str, identity: Identity) -> str:
        """The name under which a table's samples are kept."""
        s = self.settings
        how = (
            s.kind,
            s.channels,
            s.format,
            s.time,
            s.label.origin,
            s.label.fields,
            s.label.numbers,
        )
        made_by = f"{how}{s.rate_hz}{self.names}{self.cipher is None}"
        mark = f"{name}\0{identity}\0{made_by}"
        return hashlib.blake2b(mark.encode("utf-8", "replace"), digest_size=12).hexdigest()

    def parts(self, root: Path, name: str, identity: Identity) -> tuple[Made, list[Path]]:
        """The files of samples of one table, made now if they aren't there.

        LocalFault if the table can't be read at all; rows that are wrong are counted.
        """
        ensure_private_dir(self.scratch)
        key = self.key(name, identity)
        done = self.scratch / f"{key}.json"
        made = _read(done)
        paths = [self.scratch / f"{key}-{i}.rows" for i in range(made.parts if made else 0)]
        if made is None or not all(path.is_file() for path in paths):
            made = self._make(root if root.is_file() else root / name, name, key)
            paths = [self.scratch / f"{key}-{i}.rows" for i in range(made.parts)]
            write_atomic(done, encode(made))
        return made, paths

    def forget(self, wanted: set[str]) -> None:
        """Remove what was made of other tables than these keys'."""
        with suppress(OSError):
            for path in self.scratch.iterdir():
                entry = path.name
                key = entry.partition("-")[0].partition(".")[0]
                if entry.endswith((".rows", ".json")) and key not in wanted:
                    path.unlink(missing_ok=True)

    def _make(self, path: Path, name: str, key: str) -> Made:
        settings = self.restated()
        chooser, writer = Chooser(settings), _Parts(self, key)
        label = folder_label(name) if settings.label.origin == "folder" else ""
        unit, timed = _UNITS[settings.time.unit], settings.time.field is not None
        bad, first, gap, number = 0, "", False, 0
        try:
            for line, fields in _fields_of(settings, path):
                if line % _STEP == 0:
                    self.pace.step()
                try:
                    if isinstance(fields, PeerFault):
                        raise fields
                    record = chooser.record(fields)
                    us = record.time * unit if timed and record.time is not None else number
                    if not abs(us) < _TIME_MAX:
                        raise LocalFault("its time is none")
                except (PeerFault, LocalFault) as fault:
                    bad, gap = bad + 1, True
                    first = first or f"line {line}: {getattr(fault, 'detail', fault)}"[:300]
                    continue
                writer.add(round(us), label or record.label, gap, record.values)
                number, gap = number + 1, False
            writer.close()
        except OSError as error:
            raise LocalFault(f"{name}: {error.strerror or error}") from None
        return Made(writer.number, number, bad, first)


class _Parts:
    """Writes rows into as many files as they need."""

    def __init__(self, converter: Converter, key: str) -> None:
        self._converter, self._key = converter, key
        self._rows, self._file, self._size = Rows(), -1, 0
        self.number = 0

    def add(self, us: int, label: str, broken: bool, values: tuple[float, ...]) -> None:
        self._rows.add(us, label, broken, values)
        if self._rows.held_bytes >= _BLOCK:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._end()
        sync_dir(self._converter.scratch)

    def _flush(self) -> None:
        if not len(self._rows):
            return
        if self._file < 0 or self._size >= PART_MAX:
            self._end()
            path = self._converter.scratch / f"{self._key}-{self.number}.rows"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._file, self._size = os.open(path, flags, 0o600), 0
            self.number += 1
            self._put(pack_head(self._converter.head()))
        inside, cipher = self._rows.inside(), self._converter.cipher
        if cipher is not None:
            inside = cipher.seal(inside, place_of(self.number - 1, self._size))
        self._put(pack_block(len(self._rows), inside))
        self._rows = Rows()

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._size += len(data)

    def _end(self) -> None:
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1


def _read(path: Path) -> Made | None:
    try:
        return decode(Made, read_bounded(path, 64 * 1024))
    except (OSError, LocalFault, Unfit):
        return None


def _fields_of(settings: DataSection, path: Path) -> Iterator[tuple[int, Fields | PeerFault]]:
    if settings.kind == "csv":
        return csv_rows(path, settings)
    return _parquet_rows(path, settings)


def csv_rows(path: Path, settings: DataSection) -> Iterator[tuple[int, Fields | PeerFault]]:
    """Line numbers and fields of a CSV file, or what is wrong with a line; names in the first line.

    LocalFault if there is no such line, or if it lacks a field that the configuration names.
    """
    with path.open("rb") as file:
        first = file.readline(LINE_MAX)
        try:
            text = first.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise LocalFault(
                f"{path.name}: not UTF-8; convert it: iconv -f latin1 -t utf-8"
            ) from None
        separator = settings.format.separator
        names = tuple(part.strip().strip('"') for part in text.strip().split(separator))
        _need(path, settings, names)
        # A column that appears twice, or has no name, is nobody's.
        fields = tuple(n if n and names.count(n) == 1 else UNWANTED for n in names)
        decoder = Separated(msgspec.structs.replace(settings.format, fields=fields))
        number = 1
        while line := file.readline(LINE_MAX):
            number += 1
            if not line.strip():
                continue
            try:
                yield number, decoder.decode(line)
            except PeerFault as fault:
                yield number, fault


def _parquet_rows(path: Path, settings: DataSection) -> Iterator[tuple[int, Fields | PeerFault]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise LocalFault(
            "data.kind: Parquet files need pyarrow; pip install 'qflare[parquet]'"
        ) from None
    try:
        with pq.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            _need(path, settings, names)
            wanted = [name for name in names if name in _wanted(settings)]
            number, unit = 0, _UNITS[settings.time.unit]
            for batch in file.iter_batches(batch_size=4096, columns=wanted):
                columns = {}
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    if pa.types.is_timestamp(column.type):
                        moments = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
                        columns[name] = [
                            None if v is None else v / unit for v in moments.to_pylist()
                        ]
                    else:
                        columns[name] = column.to_pylist()
                for values in zip(*columns.values(), strict=True):
                    number += 1
                    yield number, dict(zip(columns, values, strict=True))
    except (pa.ArrowException, ValueError) as error:
        raise LocalFault(f"{path.name} is no Parquet file: {str(error)[:200]}") from None


def _wanted(settings: DataSection) -> set[str]:
    label = settings.label
    found = {channel.source for channel in settings.channels} | set(label_numbers(settings))
    found |= set(label.fields) if label.origin == "field" else set()
    return found | ({settings.time.field} if settings.time.field else set())


def _need(path: Path, settings: DataSection, names: tuple[str, ...]) -> None:
    for name in sorted(_wanted(settings)):
        if names.count(name) != 1:
            problem = "has two columns" if name in names else "has no column"
            raise LocalFault(
                f"{path.name} {problem} {name!r}; there are {', '.join(names[:20])}. Correct the "
                "file, or name the column in [[data.channels]] by `field`"
            )

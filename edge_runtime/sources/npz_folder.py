"""A folder of .npz files, each of which an application adds when it has new examples.

A file holds `x` (n, *input shape) and, if the model wants labels, `y`; or the parts that
`npz.NpzSource` reads, which stay on their sides. What doesn't suit is left out and said.
"""

import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import ModelContract
from edge_runtime.pacing import OutOfTime, Pace, Unpaced
from edge_runtime.sources.archive import Archive, Member
from edge_runtime.sources.base import Examples, Rows, Values
from edge_runtime.sources.folder import list_files
from edge_runtime.sources.npz import CHUNK, NpzSource, Scale
from edge_runtime.sources.quality import Judge, Verdict
from edge_runtime.sources.record import channel_of
from edge_runtime.sources.settings import DataSection
from edge_runtime.sources.split import held_out
from qflare.faults import LocalFault

FILES_OPEN_MAX: Final = 512


class Joined:
    """Chosen rows of several examples, one after the other."""

    def __init__(self, parts: list[tuple[Examples, Rows]]) -> None:
        self._parts = [(examples, rows) for examples, rows in parts if len(rows)]
        self._ends = np.cumsum([len(rows) for _, rows in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        which = np.searchsorted(self._ends, rows, "right")
        for part in np.unique(which).tolist():
            places = np.flatnonzero(which == part)
            examples, chosen = self._parts[part]
            begin = int(self._ends[part]) - len(chosen)
            inner = chosen[rows[places] - begin]
            if len(places) == len(rows):
                examples.read(inner, x, y)
                return
            part_x = None if x is None else np.empty((len(places), *x.shape[1:]), x.dtype)
            part_y = None if y is None else np.empty((len(places), *y.shape[1:]), y.dtype)
            examples.read(inner, part_x, part_y)
            if x is not None and part_x is not None:
                x[places] = part_x
            if y is not None and part_y is not None:
                y[places] = part_y


@dataclass(frozen=True, slots=True)
class _File:
    """Arrays x and y of one open file."""

    archive: Archive
    x: Member
    y: Member | None
    scale: Scale

    def __len__(self) -> int:
        return len(self.x)

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        if x is not None:
            self.archive.pick(self.x, rows, x)
            self.scale.apply(x[: len(rows)])
        if y is not None and self.y is not None:
            self.archive.pick(self.y, rows, y)


class NpzFolder:
    """A `base.Source`."""

    def __init__(
        self, settings: DataSection, contract: ModelContract, pace: Pace | None = None
    ) -> None:
        """Raise LocalFault if the folder isn't there."""
        self._pace = pace or Unpaced()
        self._settings, self._contract = settings, contract
        self._scale = Scale(contract)
        says = contract.manifest.input
        channels = [channel_of(settings, name) for name in says.channels]
        self._judge = Judge.of(says, channels, settings.quality)
        self._listing = list_files(settings.path, (".npz",))
        self._parts: dict[str, list[tuple[Examples, Rows]]] = {"train": [], "test": []}
        self._left_out: Counter[str] = Counter()
        self._files: list[dict[str, Any]] = []
        names = list(self._listing)
        for name in names[-FILES_OPEN_MAX:]:
            self._add(name)
        self._ignored = max(0, len(names) - FILES_OPEN_MAX)

    def _add(self, name: str) -> None:
        root = self._settings.path
        path = root if root.is_file() else root / name
        try:
            archive = Archive(path)
            members = archive.members()
            if "x_train" in members:
                whole = NpzSource(path, self._contract, self._pace)
                for side, part in (("train", whole.train()), ("test", whole.test())):
                    self._parts[side].append((part, np.arange(len(part))))
                self._files.append({"name": name, "examples": whole.count()})
                return
            self._take(name, self._file(archive, members))
        except OutOfTime:
            raise
        except LocalFault as fault:
            self._files.append({"name": name, "fault": str(fault)})
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            self._files.append({"name": name, "fault": f"no data file: {error}"})

    def _file(self, archive: Archive, members: dict[str, Member]) -> _File:
        contract = self._contract
        wanted: list[tuple[str, str, tuple[int, ...]]] = [
            ("x", contract.manifest.input.dtype, contract.input_shape)
        ]
        if contract.label_shape is not None:
            wanted.append(("y", contract.label_dtype, contract.label_shape))
        for key, dtype, shape in wanted:
            member = members.get(key)
            if member is None:
                raise LocalFault(f"it has no {key}; write it with np.savez(path, x=…, y=…)")
            if np.dtype(member.dtype) != np.dtype(dtype) or member.shape[1:] != shape:
                raise LocalFault(
                    f"{key} is {np.dtype(member.dtype)}{list(member.shape)}, {contract.name} wants "
                    f"{dtype}{['n', *shape]}"
                )
        y = members.get("y") if contract.label_shape is not None else None
        if y is not None and len(y) != len(members["x"]):
            raise LocalFault(f"x has {len(members['x'])} examples, y has {len(y)}")
        return _File(archive, members["x"], y, self._scale)

    def _take(self, name: str, file: _File) -> None:
        """Judge every example of a file, and put each that is fit on its side."""
        verdict = np.zeros(len(file), np.uint8)
        size = max(1, min(len(file), CHUNK // max(file.x.row_bytes, 1)))
        x: Values = np.empty((size, *file.x.shape[1:]), file.x.dtype)
        for first in range(0, len(file), size):
            self._pace.step()
            piece = x[: len(file) - first]
            file.archive.rows(file.x, first, piece)
            rows = piece.reshape(len(piece), -1, piece.shape[-1]).astype(np.float32)
            if x.dtype.kind == "f":
                verdict[first : first + len(piece)] = self._judge.verdicts(rows)
        if file.y is not None and len(file):
            y: Values = np.empty(file.y.shape, file.y.dtype)
            file.archive.rows(file.y, 0, y)
            verdict[(verdict == 0) & self._bad_labels(y)] = Verdict.UNKNOWN_LABEL
        for v in set(verdict.tolist()) - {0}:
            self._left_out[Verdict(v).word] += int((verdict == v).sum())
        share = self._settings.holdout.share
        test = np.array([held_out(f"{name}/{i}", share) for i in range(len(file))], np.bool_)
        fit = verdict == 0
        self._parts["train"].append((file, np.flatnonzero(fit & ~test)))
        self._parts["test"].append((file, np.flatnonzero(fit & test)))
        self._files.append({"name": name, "examples": int(fit.sum())})

    def _bad_labels(self, y: Values) -> NDArray[np.bool_]:
        flat = y.reshape(len(y), -1)
        match self._contract.manifest.task:
            case "classification":
                bad = (flat < 0) | (flat >= len(self._contract.manifest.classes))
            case "multilabel":
                bad = (flat != 0) & (flat != 1)
            case _:
                bad = ~np.isfinite(flat)
        return np.asarray(bad.any(axis=1), np.bool_)

    @property
    def fresh(self) -> bool:
        """Is no file new, changed or gone?"""
        try:
            return list_files(self._settings.path, (".npz",)) == self._listing
        except (LocalFault, OSError):
            return False

    def train(self) -> Examples:
        """As `base.DataSource`; LocalFault, saying why, if there is nothing to train on."""
        if not self.count():
            problems = "; ".join(self.report()["problems"]) or "put .npz files there"
            raise LocalFault(f"{self._settings.path}: no example to train on; {problems}")
        return Joined(self._parts["train"])

    def test(self) -> Examples:
        return Joined(self._parts["test"])

    def count(self) -> int:
        """Examples to train on."""
        return sum(len(rows) for _, rows in self._parts["train"])

    def report(self) -> dict[str, Any]:
        """What was found, and what was left out and why."""
        problems = [f"{f['name']}: {f['fault']}" for f in self._files if "fault" in f]
        if self._ignored:
            problems.append(
                f"the first {self._ignored} files by name aren't read: at most {FILES_OPEN_MAX} "
                "are; join or remove some"
            )
        return {
            "kind": "npz-folder",
            "path": str(self._settings.path),
            "model": self._contract.name,
            "examples": {side: len(Joined(parts)) for side, parts in self._parts.items()},
            "left_out": dict(self._left_out),
            "files": self._files[:100],
            "problems": problems,
        }

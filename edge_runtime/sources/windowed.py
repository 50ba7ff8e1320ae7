"""Sources of rows (collected samples, CSV, Parquet) as a model's examples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.contract import ModelContract
from edge_runtime.pacing import OutOfTime, Pace, Unpaced
from edge_runtime.sources.base import Examples
from edge_runtime.sources.collecting import head_of
from edge_runtime.sources.folder import Identity, Listing, list_files
from edge_runtime.sources.labels import Intervals, read_intervals
from edge_runtime.sources.rows import Index, Indexer, WindowExamples, class_numbers, counts, totals
from edge_runtime.sources.schema import Schema, mismatches
from edge_runtime.sources.segment import Cipher
from edge_runtime.sources.settings import DataSection
from edge_runtime.sources.tables import Converter
from edge_runtime.sources.tracks import Track, ring_files
from qflare.faults import LocalFault

ENDINGS = {"csv": (".csv", ".tsv", ".txt"), "parquet": (".parquet", ".pq")}


@dataclass(frozen=True, slots=True)
class _Known:
    """A track that was looked at before: as long as nothing changes, it needn't be again."""

    identity: Identity
    labels: Identity | None
    track: Track
    index: Index


class RowSource:
    """A `base.Source`. It is what it was when it was made; make another when it isn't `fresh`."""

    def __init__(
        self,
        settings: DataSection,
        contract: ModelContract,
        scratch: Path,
        previous: "RowSource | None" = None,
        cipher: Cipher | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Raise LocalFault, with what doesn't suit the model and what to do, or if data is missing.

        What `previous` knows of files that didn't change is taken over.
        """
        self._settings, self._contract = settings, contract
        self._cipher, self._pace = cipher, pace or Unpaced()
        self.schema = Schema.of(settings, tuple(contract.manifest.input.channels))
        wrong = mismatches(self.schema, contract.manifest, settings.window.keep_every)
        if wrong:
            raise LocalFault("; ".join(wrong))
        self._label_file = settings.label.file if settings.label.origin == "file" else None
        self._labels = _identity(self._label_file)
        self._intervals: Intervals | None = None
        if self._label_file is not None:
            self._intervals = read_intervals(
                self._label_file, settings.label.names, self.schema.label_width
            )
            self._verify_numbers()
        self._files: list[dict[str, Any]] = []
        self._listing = self._list()
        self._known: dict[Path, _Known] = {}
        given = previous._known if previous and previous._alike(settings, contract) else {}
        for number, path in self._parts(scratch):
            self._pace.step()
            self._take(path, number, given)
        self._indexer = Indexer(settings, contract, self._names())
        self._count = counts([known.index for known in self._known.values()])

    def _alike(self, settings: DataSection, contract: ModelContract) -> bool:
        return settings == self._settings and contract.digest == self._contract.digest

    def _names(self) -> Sequence[str]:
        for known in self._known.values():
            return known.track.head.names
        return (*self.schema.names, *self._settings.label.fields)

    def _list(self) -> Listing:
        if self._settings.collected:
            found, _ = ring_files(self._settings.path, head_of(self._settings))
            seen = {str(path): _identity(path) for _, path in found}
            return {name: identity for name, identity in seen.items() if identity is not None}
        return list_files(self._settings.path, ENDINGS[self._settings.kind])

    def _parts(self, scratch: Path) -> Iterator[tuple[int, Path]]:
        """The files of samples, each with its number."""
        settings = self._settings
        if settings.collected:
            found, others = ring_files(settings.path, head_of(settings))
            for name in others:
                self._files.append({"name": name, "fault": "of another sensor or configuration"})
            yield from found
            return
        names = self.schema.names
        converter = Converter(settings, scratch / "tables", self._cipher, names, self._pace)
        converter.forget({converter.key(n, i) for n, i in self._listing.items()})
        for name, identity in self._listing.items():
            try:
                made, paths = converter.parts(settings.path, name, identity)
            except OutOfTime:
                raise
            except LocalFault as fault:
                self._files.append({"name": name, "fault": str(fault)})
                continue
            said = {"name": name, "rows": made.rows, "bad_rows": made.bad_rows}
            self._files.append(said | ({"first_bad": made.first_fault} if made.bad_rows else {}))
            yield from enumerate(paths)

    def _take(self, path: Path, number: int, given: dict[Path, _Known]) -> None:
        identity = _identity(path)
        known = given.get(path)
        if known is None or identity is None or known.identity != identity:
            try:
                track = Track(path, number, self._cipher)
            except LocalFault as fault:
                self._files.append({"name": path.name, "fault": str(fault)})
                return
            known = _Known(track.identity, self._labels, track, self._index(track))
        elif known.labels != self._labels:
            known = _Known(identity, self._labels, known.track, self._index(known.track))
        if known.track.damaged:
            self._files.append({"name": path.name, "damaged_bytes": known.track.damaged})
        self._known[path] = known

    def _index(self, track: Track) -> Index:
        indexer = Indexer(self._settings, self._contract, track.head.names)
        return indexer.index(track, self._intervals)

    def _verify_numbers(self) -> None:
        numbers = self._intervals.numbers if self._intervals else None
        if self._contract.manifest.task != "multilabel" or numbers is None:
            return
        if not ((numbers == 0) | (numbers == 1)).all():
            raise LocalFault(f"{self._label_file}: has labels other than 0 and 1; correct it")

    @property
    def fresh(self) -> bool:
        """Is there nothing new, and nothing gone?"""
        try:
            return self._list() == self._listing and _identity(self._label_file) == self._labels
        except (LocalFault, OSError):
            return False

    def train(self) -> Examples:
        """As `base.DataSource`; LocalFault, saying why, if there is nothing to train on."""
        if not self._count["train"]:
            raise LocalFault(f"{self._settings.path}: no example to train on; {self._why()}")
        return self._side(0)

    def test(self) -> Examples:
        return self._side(1)

    def count(self) -> int:
        """Examples to train on."""
        return int(self._count["train"])

    def _side(self, side: int) -> Examples:
        known = list(self._known.values())
        tracks, indices = [k.track for k in known], [k.index for k in known]
        found = WindowExamples(self._indexer, tracks, indices, side, self._intervals)
        return found.held(self._contract)

    def _why(self) -> str:
        problems = self.report()["problems"]
        if not problems and self._count["test"]:
            return (
                f"all {self._count['test']} are held out for testing; wait for more, or make the "
                "pieces shorter (data.holdout.span_s, or span_rows)"
            )
        return "; ".join(problems) if problems else "there are too few samples yet"

    def report(self) -> dict[str, Any]:
        """What was found, what was left out and why; plain values, as JSON takes them."""
        indices = [known.index for known in self._known.values()]
        left_out, unknown, moments = totals(indices)
        says, indexer = self._contract.manifest.input, self._indexer
        channels = moments.channels(says.channels, indexer.judge) if moments else []
        return {
            "kind": self._settings.kind,
            "path": str(self._settings.path),
            "model": self._contract.name,
            "rows": sum(len(known.track) for known in self._known.values()),
            "examples": self._count,
            "left_out": dict(left_out),
            "channels": channels,
            "files": self._files[:100],
            "problems": [*self._problems(left_out, unknown, channels)],
        }

    def _problems(
        self, left_out: dict[str, int], unknown: dict[str, int], channels: list[dict[str, Any]]
    ) -> Iterator[str]:
        """What a person should do something about."""
        total = sum(left_out.values()) + sum(self._count.values())
        for word, many in left_out.items():
            if word != "border" and many > 0.05 * total:
                yield f"{many} of {total} windows are {word.replace('_', ' ')}: {_REMEDY[word]}"
        if unknown:
            classes = class_numbers(self._contract.manifest.classes, {})
            names = [name for name in classes if not name.isdigit()][:12]
            yield (
                f"labels that {self._contract.name} doesn't know: "
                f"{', '.join(sorted(unknown)[:12])}; it knows {', '.join(names)}. "
                "Map them in [data.label.names]"
            )
        for channel in channels:
            if channel["drifted"]:
                yield (
                    f"{channel['name']} has mean {channel['mean']:g} and deviation "
                    f"{channel['deviation']:g}, and the model expects {channel['expected_mean']:g} "
                    f"and {channel['expected_deviation']:g}; check unit, factor and mounting"
                )
        for file in self._files:
            if "fault" in file:
                yield f"{file['name']}: {file['fault']}"
            elif file.get("bad_rows"):
                yield f"{file['name']}: {file['bad_rows']} bad rows, first {file['first_bad']}"
        if self._intervals is not None and self._intervals.bad:
            yield f"{self._label_file}: {self._intervals.bad} lines say nothing; correct them"


_REMEDY = {
    "unlabelled": "label them, or leave them",
    "unknown_label": "see the labels below",
    "not_finite": "a sensor sends NaN or infinity; check it",
    "missing": "samples are lost on their way, or data.rate_hz is wrong",
    "stuck": "a channel doesn't move; check the sensor, or set may_rest for a switch",
    "clipped": "values are at the ends of the range; check range and mounting",
    "drifted": "values are far from what the model expects; check unit, factor and mounting",
}


def _identity(path: Path | None) -> Identity | None:
    try:
        return None if path is None else Identity.of(path.stat())
    except OSError:
        return None

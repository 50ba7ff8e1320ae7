"""Pictures in a folder, as a camera or a person puts them there, decoded by Pillow.

The label is the name of the folder that a picture is in, or stands in a file beside it with the
same name and the ending .txt. Pictures are untrusted: their size is looked at before they are
decoded, only JPEG and PNG are, and one that can't be read is left out.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import ModelContract
from edge_runtime.pacing import Pace, Unpaced
from edge_runtime.sources.base import Examples, Rows, Values
from edge_runtime.sources.folder import Listing, folder_label, list_files
from edge_runtime.sources.npz import Scale
from edge_runtime.sources.rows import class_numbers
from edge_runtime.sources.settings import CameraSection, DataSection
from edge_runtime.sources.split import held_out
from qflare.faults import LocalFault
from qflare.host.files import read_bounded
from qflare.names import Digest

ENDINGS: Final = (".jpg", ".jpeg", ".png")
FILE_MAX: Final = 32 * 1024 * 1024
PIXELS_MAX: Final = 64 * 1024 * 1024
KEPT_MAX: Final = 16 * 1024 * 1024  # bytes of decoded pictures in memory


@dataclass(frozen=True, slots=True)
class _Picture:
    name: str
    label: int  # -1 for none


class _Decoder:
    """Pictures as arrays of bytes (rows, columns, channels), the last ones kept."""

    def __init__(self, folder: Path, shape: tuple[int, ...], settings: CameraSection) -> None:
        """LocalFault without Pillow."""
        try:
            from PIL import Image
        except ImportError:
            raise LocalFault(
                "data.kind: pictures need Pillow; pip install 'qflare[camera]'"
            ) from None
        self._image, self._folder, self._settings = Image, folder, settings
        self._rows, self._columns, channels = shape
        self._mode = "L" if channels == 1 else "RGB"
        self._kept: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()

    def get(self, name: str) -> NDArray[np.uint8]:
        """Decode one; raise LocalFault if it can't be."""
        found = self._kept.get(name)
        if found is None:
            found = self._kept[name] = self._decode(self._folder / name)
            while len(self._kept) * found.nbytes > KEPT_MAX and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return found

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        import io

        try:
            data = read_bounded(path, FILE_MAX)
            with self._image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
                if picture.width * picture.height > PIXELS_MAX:
                    raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
                # A JPEG is decoded at a fraction of its size if that is enough.
                picture.draft(self._mode, (2 * self._columns, 2 * self._rows))
                fitted = self._fit(picture.convert(self._mode))
                array = np.asarray(fitted, np.uint8)
        except LocalFault:
            raise
        except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
            raise LocalFault(f"{path.name}: no picture: {str(error)[:200]}") from None
        return array.reshape(self._rows, self._columns, -1)

    def _fit(self, picture: Any) -> Any:
        width, height = picture.size
        box = None
        if self._settings.fit == "crop":
            scale = min(width / self._columns, height / self._rows)
            inner_w, inner_h = self._columns * scale, self._rows * scale
            left, top = (width - inner_w) / 2, (height - inner_h) / 2
            box = (left, top, left + inner_w, top + inner_h)
        size = (self._columns, self._rows)
        return picture.resize(size, self._image.Resampling.BILINEAR, box=box)


class _Examples:
    """Pictures, decoded when they are asked for."""

    def __init__(
        self, pictures: list[_Picture], decoder: _Decoder, factor: float, scale: Scale
    ) -> None:
        self._pictures, self._decoder = pictures, decoder
        self._factor, self._scale = np.float32(factor), scale
        self._labels = np.array([picture.label for picture in pictures], np.int32)

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        if x is not None:
            for i, row in enumerate(rows.tolist()):
                np.multiply(self._decoder.get(self._pictures[row].name), self._factor, out=x[i])
            self._scale.apply(x[: len(rows)])
        if y is not None:
            y[: len(rows)] = self._labels[rows]


class Pictures:
    """A `base.Source`."""

    def __init__(
        self, settings: DataSection, contract: ModelContract, pace: Pace | None = None
    ) -> None:
        """Raise LocalFault for a model of something else, or without the folder."""
        self._settings, self._contract = settings, contract
        says = contract.manifest.input
        if len(says.shape) != 3 or says.shape[2] not in (1, 3) or says.dtype != "float32":
            raise LocalFault(
                f"{contract.name} takes {says.dtype} of shape {says.shape} and pictures are "
                "[rows, columns, 1 or 3]; choose another data.kind"
            )
        if contract.manifest.task not in ("classification", "autoencoder"):
            raise LocalFault(
                f"{contract.name} is a {contract.manifest.task}; pictures have classes or nothing"
            )
        self._labelled = contract.manifest.task == "classification"
        if self._labelled and settings.label.origin not in ("folder", "file"):
            raise LocalFault(
                f"{contract.name} learns classes and pictures have no labels; set "
                'data.label.origin = "folder", or "file" for a .txt beside each'
            )
        self._decoder = _Decoder(settings.path, contract.input_shape, settings.camera)
        self._classes = class_numbers(contract.manifest.classes, settings.label.names)
        self._left_out: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._faults: list[str] = []
        self._listing = self._list()
        self._sides: dict[str, list[_Picture]] = {"train": [], "test": []}
        self._seen: set[Digest] = set()
        for name in self._listing:
            (pace or Unpaced()).step()
            if name.lower().endswith(ENDINGS):
                self._add(name)

    def _list(self) -> Listing:
        return list_files(self._settings.path, (*ENDINGS, ".txt"))

    def _add(self, name: str) -> None:
        label, verdict = -1, ""
        if self._labelled:
            word = self._label_of(name)
            label = self._classes.get(word, -1)
            if not word:
                verdict = "unlabelled"
            elif label < 0:
                verdict = "unknown_label"
                self._unknown[word] += 1
        verdict = verdict or self._verdict(name)
        if verdict:
            self._left_out[verdict] += 1
            return
        side = "test" if held_out(name, self._settings.holdout.share) else "train"
        self._sides[side].append(_Picture(name, label))

    def _label_of(self, name: str) -> str:
        if self._settings.label.origin == "folder":
            return folder_label(name)
        beside = str(Path(name).with_suffix(".txt"))
        if beside not in self._listing:
            return ""
        try:
            text = read_bounded(self._settings.path / beside, 4096)
        except (OSError, LocalFault):
            return ""
        return text.decode(errors="replace").strip()

    def _verdict(self, name: str) -> str:
        quality = self._settings.quality
        try:
            picture = self._decoder.get(name)
        except LocalFault as fault:
            if len(self._faults) < 20:
                self._faults.append(str(fault))
            return "unreadable"
        digest = Digest.of(picture.tobytes())
        if quality.stuck_rows and digest in self._seen:
            return "stuck"  # to the last bit: the camera hangs, or it is a copy
        self._seen.add(digest)
        ends = ((picture == 0) | (picture == 255)).mean()
        # A dark or bright picture may have large parts at an end, but not nearly all of it.
        return "clipped" if quality.clipped and ends > _BLANK else ""

    @property
    def fresh(self) -> bool:
        """Is no picture new, changed or gone?"""
        try:
            return self._list() == self._listing
        except (LocalFault, OSError):
            return False

    def train(self) -> Examples:
        """As `base.DataSource`; LocalFault, saying why, if there is nothing to train on."""
        if not self.count():
            problems = "; ".join(self.report()["problems"]) or "put pictures there"
            raise LocalFault(f"{self._settings.path}: no picture to train on; {problems}")
        return self._examples("train")

    def test(self) -> Examples:
        return self._examples("test")

    def _examples(self, side: str) -> Examples:
        factor = self._settings.camera.full_scale / 255
        return _Examples(self._sides[side], self._decoder, factor, Scale(self._contract))

    def count(self) -> int:
        """Pictures to train on."""
        return len(self._sides["train"])

    def report(self) -> dict[str, Any]:
        """What was found, and what was left out and why."""
        problems = list(self._faults)
        if self._unknown:
            problems.append(
                f"labels that {self._contract.name} doesn't know: "
                f"{', '.join(sorted(self._unknown)[:12])}; map them in [data.label.names]"
            )
        if self._left_out["stuck"]:
            problems.append("the camera sends one picture again and again; start it anew")
        return {
            "kind": "camera",
            "path": str(self._settings.path),
            "model": self._contract.name,
            "examples": {side: len(found) for side, found in self._sides.items()},
            "left_out": dict(self._left_out),
            "problems": problems,
        }


_BLANK: Final = 0.98

"""Fashion-MNIST: small grey pictures of ten kinds of clothes, dealt unevenly to the devices.

28 x 28 pixels from 0 to 1 (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747; Expat licence). The files
come with the Debian package `dataset-fashion-mnist`; their format is idx (a magic number, the
sizes, the bytes).
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qflare.faults import LocalFault
from qflare.names import DeviceId
from qflare.simulate.data.samples import DeviceData, Labelled
from qflare.simulate.data.split import dirichlet

FOLDER_VARIABLE: Final = "QFLARE_FASHION_MNIST"  # where the files are, if not where Debian has them
FOLDER: Final = "/usr/share/datasets/fashion-mnist"
CLASSES: Final = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
SIDE: Final = 28
# The fleet gets the first pictures only: the others stay for what must never have seen them, as
# the backbone of `fashion_transfer`.
TRAIN: Final = 20_000
TEST: Final = 5_000
DEVICES: Final = 20  # that share them; more devices have less each
ALPHA: Final = 0.3  # small: each device sees few kinds; large: all see the same mixture
_BYTES_MAX: Final = 64 * 1024 * 1024  # of one unpacked file


def prepare(
    cache_dir: Path, devices: int, seed: int, *, validation: bool = False
) -> list[DeviceData]:
    """Return the pictures of `devices` devices, each with its own mixture of kinds.

    A device has 1,000 pictures to train on and 250 to test, of the same mixture; more than twenty
    devices share what there is for twenty. With `validation`, the test part comes from training
    pictures that nobody else has: for choosing schedules. Raise LocalFault if the files aren't
    there, or if there are fewer pictures than devices.
    """
    del cache_dir
    pictures, kinds = load("train")
    known, known_kinds = pictures[:TRAIN], kinds[:TRAIN]
    if validation:
        judged, judged_kinds = pictures[TRAIN : TRAIN + TEST], kinds[TRAIN : TRAIN + TEST]
    else:
        pictures, kinds = load("t10k")
        judged, judged_kinds = pictures[:TEST], kinds[:TEST]
    each = max(devices, DEVICES)
    sizes = (TRAIN // each, TEST // each)
    if not all(sizes):
        raise LocalFault(f"the fashion data has too few pictures for {devices} devices")
    random = np.random.Generator(np.random.PCG64(seed))
    hands = dirichlet((known_kinds, judged_kinds), sizes, devices, ALPHA, random)
    return [
        DeviceData(
            DeviceId.parse(f"fashion-{i:04d}"),
            Labelled(scaled(known[train]), known_kinds[train]),
            Labelled(scaled(judged[test]), judged_kinds[test]),
        )
        for i, (train, test) in enumerate(hands, 1)
    ]


def load(part: str) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Pictures (n, 28, 28) and kinds (n,) of `part`, "train" or "t10k"."""
    folder = Path(os.environ.get(FOLDER_VARIABLE, FOLDER))
    pictures = _read(folder / f"{part}-images-idx3-ubyte.gz", 3)
    kinds = _read(folder / f"{part}-labels-idx1-ubyte.gz", 1)
    if pictures.shape[1:] != (SIDE, SIDE) or len(pictures) != len(kinds):
        raise LocalFault(f"{folder} holds other pictures than Fashion-MNIST's; install it again")
    if len(kinds) and kinds.max() >= len(CLASSES):
        raise LocalFault(f"{folder} has kinds that Fashion-MNIST doesn't; install it again")
    return pictures, kinds.astype(np.int32)


def scaled(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 28, 28) bytes as (n, 28, 28, 1) numbers from 0 to 1."""
    return (pictures.astype(np.float32) / np.float32(255))[..., None]


def _read(path: Path, axes: int) -> NDArray[np.uint8]:
    """An idx file of bytes with so many axes."""
    try:
        with gzip.open(path) as file:
            data = file.read(_BYTES_MAX + 1)
    except FileNotFoundError:
        raise LocalFault(
            f"Fashion-MNIST isn't installed ({path}); run: sudo apt install dataset-fashion-mnist "
            f"(or set {FOLDER_VARIABLE} to the folder of its four .gz files)"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise LocalFault(f"{path} can't be read ({error}); install it again") from None
    head = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", data[4:head].ljust(4 * axes, b"\xff"))
    if data[:4] != bytes((0, 0, 8, axes)) or len(data) != head + math.prod(shape):
        raise LocalFault(f"{path} is no whole idx file of {axes} axes; install it again")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)

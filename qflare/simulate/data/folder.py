"""One's own data: a folder with one .npz a device, as `qflare data import` makes it."""

from pathlib import Path

from qflare.faults import LocalFault, PeerFault
from qflare.names import DeviceId
from qflare.simulate.data.samples import DeviceFile


def files(folder: Path) -> list[DeviceFile]:
    """The devices of a folder, by name; LocalFault if there are none, or if one has no name."""
    if not folder.is_dir():
        raise LocalFault(
            f"--dataset: {str(folder)[:200]!r} is neither a data set's name nor a folder; "
            "`qflare data import` makes one"
        )
    found = []
    for path in sorted(folder.glob("*.npz")):
        try:
            found.append(DeviceFile(DeviceId.parse(path.stem), path.absolute()))
        except PeerFault as fault:
            raise LocalFault(f"{path}: {fault.detail}; rename the file") from None
    if not found:
        raise LocalFault(f"{folder} has no .npz files; `qflare data import` makes them")
    return found


def take(folder: Path, devices: int) -> list[DeviceFile]:
    """The first devices of a folder; LocalFault if it has fewer."""
    found = files(folder)
    if devices > len(found):
        raise LocalFault(f"{folder} has {len(found)} devices; leave --devices out, or ask for less")
    return found[:devices]

"""What can't be trained on a device, and the nearest that can."""

from qflare.faults import LocalFault


class Unsupported(LocalFault):
    """A layer, or an option of one, that builtin operators can't train."""

    def __init__(self, what: str, nearest: str) -> None:
        super().__init__(f"{what} can't be trained on a device; {nearest}")
        self.what = what
        self.nearest = nearest

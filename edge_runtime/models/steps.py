"""What the jobs of `edge_runtime.models.probe` are made of."""

from collections.abc import Callable
from typing import Any

Result = dict[str, Any]
Run = Callable[[str, Callable[[], Result]], Result]


class Trouble(Exception):
    """A trial found something: the code of a finding, and what it is."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code

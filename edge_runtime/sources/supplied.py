"""Examples that a plug-in supplies; they are somebody else's, and so they are looked at."""

from typing import Any

import numpy as np

from edge_runtime.contract import ModelContract
from edge_runtime.sources.base import DataSource, Examples, Rows, Values
from edge_runtime.sources.plugin import load_plugin
from edge_runtime.sources.settings import DataSection
from qflare.faults import LocalFault


class _Checked:
    """Examples of a plug-in: what isn't finite, or a class that isn't there, never trains."""

    def __init__(self, name: str, given: Examples, contract: ModelContract) -> None:
        self._name, self._given, self._contract = name, given, contract
        self._size = len(given)

    def __len__(self) -> int:
        return self._size

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        try:
            self._given.read(rows, x, y)
        except LocalFault:
            raise
        except Exception as error:
            raise LocalFault(f"{self._name}: {type(error).__name__}: {error}") from None
        if x is not None and not np.isfinite(x[: len(rows)]).all():
            raise LocalFault(f"{self._name}: gave values that are not finite; report it")
        if y is not None and self._contract.manifest.task == "classification":
            top = len(self._contract.manifest.classes) - 1
            part = y[: len(rows)]
            if len(part) and not 0 <= part.min() <= part.max() <= top:
                raise LocalFault(f"{self._name}: gave classes outside 0…{top}; report it")


class Supplied:
    """A `base.Source` around a `base.DataSource` of a plug-in."""

    def __init__(self, settings: DataSection, contract: ModelContract) -> None:
        """Raise LocalFault if the plug-in isn't there or fails."""
        self._name = settings.plugin.name
        make = load_plugin(self._name)
        try:
            given: DataSource = make(dict(settings.plugin.options), contract)
            self._train = _Checked(self._name, given.train(), contract)
            self._test = _Checked(self._name, given.test(), contract)
        except LocalFault:
            raise
        except Exception as error:  # somebody else's code may raise anything
            raise LocalFault(f"{self._name}: {type(error).__name__}: {error}") from None
        self._given = given

    @property
    def fresh(self) -> bool:
        """What the plug-in says, if it says anything; otherwise it is asked anew each time."""
        try:
            return bool(getattr(self._given, "fresh", False))
        except Exception:
            return False

    def train(self) -> Examples:
        return self._train

    def test(self) -> Examples:
        return self._test

    def count(self) -> int:
        """Examples to train on."""
        return len(self._train)

    def report(self) -> dict[str, Any]:
        """How much it supplies."""
        return {
            "kind": "plugin",
            "plugin": self._name,
            "examples": {"train": len(self._train), "test": len(self._test)},
            "left_out": {},
            "problems": [],
        }

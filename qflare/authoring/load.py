"""Find a developer's Keras model by what the command line calls it.

`my_model.py:make_model` or `package.module:make_model` names a function without arguments, or the
model itself. It is the developer's own code on the developer's own machine, and it is run.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import keras

from qflare.faults import LocalFault

_DEFAULT: Final = "make_model"
_EXAMPLE: Final = "name it as my_model.py:make_model"


def load_model(place: str, seed: int = 0) -> Any:
    """The Keras model at `place`; LocalFault says what is in the way.

    `seed` decides the initial weights whose initialisers have no seed of their own.
    """
    source, _, name = place.rpartition(":") if ":" in place else (place, "", _DEFAULT)
    if not source or not name:
        raise LocalFault(f"{place!r} is no place of a model; {_EXAMPLE}")
    keras.utils.clear_session()  # so that layers without a name are called alike each time
    keras.utils.set_random_seed(seed)
    module = _module(source)
    found = getattr(module, name, None)
    if found is None:
        raise LocalFault(f"{source} has no {name!r}{_others(module)}; {_EXAMPLE}")
    if not isinstance(found, keras.Model) and callable(found):
        with _explained(source, f"{name}()"):
            found = found()
    _check(found, place)
    return found


def _module(source: str) -> ModuleType:
    path = Path(source)
    if path.suffix != ".py":
        if "/" in source:
            raise LocalFault(f"{source} is no Python file; {_EXAMPLE}")
        with _on_path(Path.cwd()), _explained(source, "importing it"):
            try:
                return importlib.import_module(source)
            except ModuleNotFoundError as missing:
                if missing.name and (source == missing.name or source.startswith(missing.name)):
                    raise LocalFault(f"no module is called {source!r}; {_EXAMPLE}") from None
                raise
    if not path.is_file():
        raise LocalFault(f"{source}: no such file; {_EXAMPLE}")
    spec = importlib.util.spec_from_file_location(f"qflare_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise LocalFault(f"{source} can't be imported; {_EXAMPLE}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles of the file look it up
    with _on_path(path.resolve().parent), _explained(source, "importing it"):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Let the file import its neighbours, as if it were run."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def _explained(source: str, what: str) -> Iterator[None]:
    """Any exception of the developer's code as a LocalFault that shows where it was raised."""
    try:
        yield
    except LocalFault:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if Path(f.filename).name == Path(source).name]
        if not own and not isinstance(error, SyntaxError):  # which says itself where it is
            own = frames[-1:]
        lines = [f"  {Path(f.filename).name}:{f.lineno}, in {f.name}: {f.line}" for f in own]
        reason = "".join(traceback.format_exception_only(error)).strip()
        raise LocalFault("\n".join([f"{source}: {what} failed", *lines, f"  {reason}"])) from error


def _others(module: ModuleType) -> str:
    """What else the module has that could be meant."""
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, keras.Model)
        or (callable(value) and getattr(value, "__module__", None) == module.__name__)
    ]
    return f" (it has: {', '.join(names[:10])})" if names else ""


def _check(found: Any, place: str) -> None:
    if found is None:
        raise LocalFault(f"{place} gave None; end the function with: return model")
    if isinstance(found, keras.Model):
        _check_graph(found, place)
        return
    kind = f"{type(found).__module__}.{type(found).__qualname__}"
    if kind.startswith("tf_keras."):
        hint = "it was made with tf_keras (Keras 2); make it with `import keras`"
    elif kind.startswith("torch."):
        hint = "PyTorch's models can't be converted; write it with Keras's layers"
    else:
        hint = "give a keras.Sequential, or keras.Model(inputs, outputs)"
    raise LocalFault(f"{place} gave a {kind}, no Keras model; {hint}")


def _check_graph(model: Any, place: str) -> None:
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if isinstance(model, keras.Sequential) and not inputs:
        raise LocalFault(f"{place}: the model has no input yet; start it with keras.Input(shape)")
    if not inputs or not outputs:
        raise LocalFault(
            f"{place} gave a {type(model).__name__}, a model of a class of its own, whose layers "
            "can't be seen from outside; write it as keras.Sequential or keras.Model(inputs, "
            "outputs)"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise LocalFault(
            f"{place}: the model has {len(inputs)} inputs and {len(outputs)} outputs; give it one "
            "of each (join inputs on an axis, and split them with Cropping or Reshape)"
        )

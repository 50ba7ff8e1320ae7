"""The job `try`: run each signature of any model once, on zeros."""

from collections.abc import Callable
from typing import Any

import numpy as np

from edge_runtime.interpreter import open_interpreter
from edge_runtime.models.steps import Result, Run, Trouble


def work(tflite: bytes, _: dict[str, Any], run: Run) -> None:
    """Open the model, then run what it has."""
    kept: list[Any] = []

    def opened() -> Result:
        kept.append(open_interpreter(tflite))
        return {"signatures": sorted(kept[0].get_signature_list())}

    found = run("open", opened)
    for name in found.get("signatures", ()):
        run(f"run {name}", lambda name=name: _outputs(runner(kept[0], name)))  # type: ignore[misc]
    if found.get("signatures") == []:
        run("run", lambda: _outputs(default(kept[0])))


def runner(interpreter: Any, name: str) -> Callable[[], dict[str, Any]]:
    """A call of a signature on zeros."""
    call = interpreter.get_signature_runner(name)
    inputs = {key: _zeros(key, detail) for key, detail in call.get_input_details().items()}
    return lambda: dict(call(**inputs))


def default(interpreter: Any) -> Callable[[], dict[str, Any]]:
    """A call of the first subgraph on zeros."""
    interpreter.allocate_tensors()
    inputs = {d["index"]: _zeros(d["name"], d) for d in interpreter.get_input_details()}
    outputs = interpreter.get_output_details()

    def call() -> dict[str, Any]:
        for index, values in inputs.items():
            interpreter.set_tensor(index, values)
        interpreter.invoke()
        return {d["name"]: interpreter.get_tensor(d["index"]) for d in outputs}

    return call


def _zeros(name: str, detail: dict[str, Any]) -> Any:
    dtype = np.dtype(detail["dtype"])
    if dtype.kind not in "fiubc":
        raise Trouble("unfed", f"the input {name[:40]!r} isn't numbers, so it wasn't tried")
    return np.zeros([max(int(side), 1) for side in detail["shape"]], dtype)


def _outputs(call: Callable[[], dict[str, Any]]) -> Result:
    outputs = call()
    strange = [
        name
        for name, values in outputs.items()
        if np.asarray(values).dtype.kind in "fc" and not np.isfinite(values).all()
    ]
    if strange:
        raise Trouble("not-finite", f"{', '.join(strange)[:80]} isn't finite for zeros")
    return {"outputs": sorted(outputs)}

"""What is asked and what is answered: bytes of a request to values and back. Pure.

GET  /v1/status     which model is active, since when, and how it is used
GET  /v1/metadata   what goes into it and what comes out
POST /v1/infer      rows in physical units; JSON, or raw little-endian values
"""

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.serving.engine import Engine, Rows
from qflare.host.model import Manifest
from qflare.host.typed import tree_of

JSON: Final = "application/json"
RAW: Final = "application/octet-stream"
PATHS: Final = {"/v1/status": "GET", "/v1/metadata": "GET", "/v1/infer": "POST"}


class Refused(Exception):
    """The request can't be answered; the text says what to do."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to be sent."""

    status: HTTPStatus
    kind: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def json_answer(tree: object, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(status, JSON, msgspec.json.encode(tree) + b"\n")


def error_answer(fault: Refused) -> Answer:
    return json_answer({"error": fault.text}, fault.status)


def route(method: str, target: str) -> str:
    """The path that is meant; raise Refused if there is none, or not by this method."""
    path = target.partition("?")[0]
    if path not in PATHS:
        raise Refused(HTTPStatus.NOT_FOUND, f"there are only {', '.join(PATHS)}")
    if method != PATHS[path]:
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"use {PATHS[path]} {path}")
    return path


def parse_rows(kind: str, body: bytes, engine: Engine) -> Rows:
    """The examples (n, *input shape), n >= 1, of a request; raise Refused for anything else."""
    kind = kind.partition(";")[0].strip().lower()
    if kind == RAW:
        rows = _raw_rows(body, engine)
    elif kind in (JSON, ""):
        rows = _json_rows(body, engine)
    else:
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"set Content-Type to {JSON} or to {RAW}")
    if not len(rows):
        raise _bad("there are no rows; send one at least")
    if rows.dtype == np.float32 and not np.isfinite(rows).all():
        raise _bad("a value is not finite; leave such examples out")
    return rows


def _raw_rows(body: bytes, engine: Engine) -> Rows:
    if len(body) % engine.row_bytes:
        raise _bad(
            f"{len(body)} bytes are no whole number of rows; one has {engine.row_bytes} bytes, "
            f"{engine.manifest.input.dtype} little-endian {list(engine.row_shape)}"
        )
    values: Rows = np.frombuffer(body, engine.dtype.newbyteorder("<"))
    return values.reshape(-1, *engine.row_shape)


def _json_rows(body: bytes, engine: Engine) -> Rows:
    want = f'{{"inputs": [row, …]}} with rows of shape {list(engine.row_shape)}'
    try:
        tree = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise _bad(f"not JSON; send {want}") from None
    if not isinstance(tree, dict) or set(tree) != {"inputs"}:
        raise _bad(f"send {want}")
    try:
        values = np.asarray(tree["inputs"], np.float64)
    except (ValueError, TypeError, OverflowError):
        raise _bad(f"rows of unequal length, or not numbers; send {want}") from None
    if values.shape == engine.row_shape:  # one row may come without its brackets
        values = values[np.newaxis]
    if values.shape[1:] != engine.row_shape:
        raise _bad(f"inputs have the shape {list(values.shape)}; send {want}")
    if engine.dtype == np.int32:
        whole = values.astype(np.int32)
        if not np.array_equal(whole, values):
            raise _bad("whole numbers of 32 bits are wanted")
        return whole
    with np.errstate(over="ignore"):  # too large is infinite, which is refused
        return values.astype(np.float32)


def infer_answer(accept: str, kind: str, outputs: NDArray[np.float32], engine: Engine) -> Answer:
    """The outputs in the form that was asked for, else in that of the request."""
    model = str(engine.slot.model)
    headers = (
        ("qflare-model", model),
        ("qflare-shape", ",".join(map(str, outputs.shape))),
    )
    raw = RAW in accept.lower() or (JSON not in accept.lower() and kind.lower().startswith(RAW))
    if raw:
        body = np.ascontiguousarray(outputs, "<f4").tobytes()
        return Answer(HTTPStatus.OK, RAW, body, headers)
    tree: dict[str, Any] = {"model": model, "outputs": outputs.tolist()}
    if engine.manifest.task == "classification":
        classes = engine.manifest.classes
        tree["classes"] = [classes[i] for i in outputs.argmax(axis=1).tolist()]
    return Answer(HTTPStatus.OK, JSON, msgspec.json.encode(tree) + b"\n", headers)


def metadata(engine: Engine) -> dict[str, Any]:
    """What an application has to know to use the model."""
    it: Manifest = engine.manifest
    return {
        "model": str(engine.slot.model),
        "name": it.name,
        "version": it.version,
        "task": it.task,
        "input": tree_of(it.input),
        "output": it.output,
        "output_means": _MEANS[it.task],
        "classes": it.classes,
        "batch": it.batch,
    }


_MEANS: Final = {
    "classification": "a probability for each class",
    "multilabel": "a probability for each class, independent of the others",
    "regression": "the values that were learnt",
    "autoencoder": "the input as the model rebuilds it, scaled: (value - mean) / scale",
}


def percentile(sorted_values: list[float], share: float) -> float:
    """The value below which this share of them lies; 0 of none."""
    if not sorted_values:
        return 0.0
    return sorted_values[min(len(sorted_values) - 1, math.floor(share * len(sorted_values)))]


def _bad(text: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, text)

"""The job `bench`: how long a model's calls take here, and what the process weighs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_runtime.contract import parse_contract
from edge_runtime.engine import Engine
from edge_runtime.interpreter import open_interpreter
from edge_runtime.models.foreign import default, runner
from edge_runtime.models.steps import Result, Run
from qflare.host.model import read_model
from qflare.tensors import FloatVector
from qflare.zoo.formula import golden_inputs

_WARM_UP: Final = 3
# Seconds that the three workloads of `speed` take on the reference core: x86-64 (AMD EPYC, a shared
# server of 2026), which the speeds of the boards are relative to.
_REFERENCE: Final = {"products": 117e-6, "functions": 71e-6, "interpreter": 115e-6}


def work(tflite: bytes, order: dict[str, Any], run: Run) -> None:
    """Time the calls of a QFLARE model, or each signature of another on zeros."""
    repeat, budget = int(order["repeat"]), float(order["budget"])
    if order["trains"]:
        _trainable(tflite, order, run, repeat, budget)
    else:
        _foreign(tflite, order, run, repeat, budget)
    run("speed", speed)


def _trainable(tflite: bytes, order: dict[str, Any], run: Run, repeat: int, budget: float) -> None:
    kept: list[tuple[Engine, dict[str, Any]]] = []
    weights: list[FloatVector] = []

    def start() -> Result:
        contract, model = parse_contract(tflite), read_model(tflite)
        weights.extend(np.frombuffer(v, "<f4") for v in (model.weights, model.personal))
        engine = Engine(contract, tflite, int(order["threads"]))
        inputs = golden_inputs(contract.manifest)
        inputs["lr"] = np.array([contract.manifest.golden.learning_rate], np.float32)
        before = _anonymous()
        engine.load(weights[0], weights[1])
        if contract.features_shape:
            inputs["x"] = engine.call["features"](x=inputs["x"])["f"]
        engine.call["train"](**inputs)
        kept.append((engine, inputs))
        return {"seconds": time.monotonic() - order["started"], "grew": _anonymous() - before}

    if "trouble" in run("start", start):
        return
    engine, inputs = kept[0]
    tested = {k: v for k, v in inputs.items() if k in ("x", "y", "m")}
    raw = {"x": golden_inputs(engine.contract.manifest)["x"]}
    # Weights that stay small: some kernels are slower on numbers that training blew up.
    inputs["lr"] = inputs["lr"] * np.float32(1e-3)
    calls: dict[str, Callable[[], Any]] = {
        "train": lambda: engine.call["train"](**inputs),
        "evaluate": lambda: engine.call["evaluate"](**tested),
        "infer": lambda: engine.call["infer"](**raw),
        "load": lambda: engine.load(weights[0], weights[1]),
    }
    if engine.contract.features_shape:
        calls["features"] = lambda: engine.call["features"](**raw)
    for name, call in calls.items():
        run(name, lambda call=call: _timed(call, repeat, budget))  # type: ignore[misc]
        if name == "train":  # the others only add to what a training process weighs
            run("memory", _memory)


def _foreign(tflite: bytes, order: dict[str, Any], run: Run, repeat: int, budget: float) -> None:
    kept: list[Any] = []

    def start() -> Result:
        kept.append(open_interpreter(tflite, int(order["threads"])))
        return {"signatures": sorted(kept[0].get_signature_list())}

    found = run("start", start).get("signatures")
    if found is None:
        return
    for name in found or [None]:
        run(
            f"run {name}" if name else "run",
            lambda name=name: _timed(  # type: ignore[misc]
                runner(kept[0], name) if name else default(kept[0]), repeat, budget
            ),
        )
    run("memory", _memory)


def _timed(call: Callable[[], Any], repeat: int, budget: float) -> Result:
    """Median and 90th percentile of at most `repeat` calls, within about `budget` seconds."""
    for _ in range(min(_WARM_UP, repeat)):
        call()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < repeat and (not times or time.perf_counter() < end):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return {
        "median": float(np.median(times)),
        "p90": float(np.percentile(times, 90)),
        "best": min(times),
        "repetitions": len(times),
    }


def _status(*names: str) -> list[int]:
    """Bytes of these entries of /proc/self/status; 0 for one that isn't there."""
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key in names:
            found[key] = 1024 * int(value.split()[0])
    return [found.get(name, 0) for name in names]


def _anonymous() -> int:
    return _status("RssAnon")[0]


def _memory() -> Result:
    resident, peak, anonymous = _status("VmRSS", "VmHWM", "RssAnon")
    return {"resident": resident, "peak": peak, "anonymous": anonymous}


def speed() -> Result:
    """This machine's single-core speed, in units of the reference core.

    The geometric mean over small matrix products, elementwise functions and Python itself: a
    training step of a small model is made of such.
    """
    random = np.random.Generator(np.random.PCG64(1))
    a = random.standard_normal((48, 48), np.float32)  # too small for more than one thread
    x = random.standard_normal(4096, np.float32)
    workloads: dict[str, Callable[[], Any]] = {
        "products": lambda: [a @ a for _ in range(40)],
        "functions": lambda: [np.tanh(x) * x + x for _ in range(20)],
        "interpreter": lambda: sum(i & 7 for i in range(4000)),
    }
    seconds = {name: _timed(call, 200, 0.3)["best"] for name, call in workloads.items()}
    ratios = [_REFERENCE[name] / seconds[name] for name in workloads]
    return {"speed": float(np.exp(np.mean(np.log(ratios)))), "seconds": seconds}

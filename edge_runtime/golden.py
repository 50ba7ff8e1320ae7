"""The self-test: a short training run whose losses are known.

Some builds of TFLite compute wrongly without saying so. A device tries its interpreter on each
model before it trains it, and sends nothing that such an interpreter made.
"""

import numpy as np

from edge_runtime.engine import Engine
from qflare.faults import LocalFault
from qflare.tensors import FloatVector
from qflare.zoo.formula import golden_inputs, golden_weights


def self_test(engine: Engine, initial: FloatVector) -> None:
    """Train the golden batch; LocalFault if this machine finds other losses than it should.

    `initial` are the federated weights in the model file. The engine must be the caller's alone.
    """
    contract, golden = engine.contract, engine.contract.manifest.golden
    inputs = golden_inputs(contract.manifest)
    engine.load(golden_weights(initial), golden_weights(engine.initial_personal()))
    if contract.features_shape:
        inputs["x"] = engine.call["features"](x=inputs["x"])["f"]
    rate = np.array([golden.learning_rate], np.float32)
    found = [float(engine.call["train"](**inputs, lr=rate)["loss"][0]) for _ in range(golden.steps)]
    after = engine.call["evaluate"](**{k: v for k, v in inputs.items() if k in ("x", "y", "m")})
    wanted = golden.evaluate
    pairs = [*zip(found, golden.losses, strict=True)]
    pairs.append((float(after["loss_sum"][0]) / wanted.n, wanted.loss_sum / wanted.n))
    pairs.append((float(after["correct"].sum()), wanted.correct))
    pairs.append((float(after["examples"].sum()), wanted.n))
    for i, (got, want) in enumerate(pairs):
        if not abs(got - want) <= golden.tolerance * max(1.0, abs(want)):
            raise LocalFault(
                f"TFLite on this machine computes {contract.name} wrongly: golden value {i} "
                f"is {got}, want {want}; try the other of the extras edge, edge-tflite-runtime"
            )

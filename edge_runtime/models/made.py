"""Examples made up for a model that is tried or timed. Pure."""

import math

import numpy as np

from edge_runtime.sources.base import Samples, Values
from qflare.host.model import Manifest


def made_samples(manifest: Manifest, size: int, seed: int = 1) -> Samples:
    """Random examples as the model takes them: normal, or 0 and 1 where whole numbers go in."""
    random = np.random.Generator(np.random.PCG64(seed))
    shape = (size, *manifest.input.shape)
    if manifest.input.dtype == "int32":
        x: Values = random.integers(0, 2, shape, np.int32)
    else:
        x = random.standard_normal(shape, np.float32)
    y: Values | None = None
    match manifest.task:
        case "classification":
            y = (np.arange(size) % len(manifest.classes)).astype(np.int32)
        case "multilabel":
            y = random.integers(0, 2, (size, *manifest.output)).astype(np.float32)
        case "regression":
            means = x.reshape(size, math.prod(manifest.input.shape)).mean(1, dtype=np.float32)
            y = np.repeat(means, math.prod(manifest.output)).reshape(size, *manifest.output)
    return Samples(x, y)

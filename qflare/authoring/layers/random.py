"""Layers that draw random numbers in training, and do nothing otherwise.

The numbers come from outside, uniform in [0, 1), so that a step can be done again.
"""

import math
from typing import Any

import tensorflow as tf

from qflare.authoring.layers.base import Apply, Pass, only, refuse
from qflare.authoring.network import Tensor

_STEEP = 3e38  # times the smallest difference of two float32 in [0, 1) is far above 1


def _kept(r: Tensor, rate: float) -> Tensor:
    """1/(1-rate) where r >= rate, else 0. A comparison and a cast would have slow kernels."""
    above = tf.minimum(tf.nn.relu((r - rate) * _STEEP + 1.0), 1.0)
    return above * (1.0 / (1.0 - rate))


def dropped(run: Pass, x: Tensor, rate: float) -> Tensor:
    """x with dropout of every element by itself."""
    return x * _kept(run.noise(x.shape[0], tuple(x.shape[1:])), rate)


def dropout(layer: Any) -> Apply:
    """Srivastava et al. 2014, JMLR 15: an element whose number is below the rate becomes 0."""
    rate = float(layer.rate)
    wanted = layer.noise_shape
    if wanted is not None and wanted[0] not in (None, -1):
        refuse(layer, f"noise_shape={wanted}", "start noise_shape with None, for the batch")

    def apply(run: Pass, x: Tensor) -> Tensor:
        if not run.training or rate == 0:
            return x
        shape = x.shape[1:]
        if wanted is not None:
            shape = [s if w is None else w for s, w in zip(shape, wanted[1:], strict=True)]
        return x * _kept(run.noise(x.shape[0], tuple(shape)), rate)

    return apply


def spatial_dropout(layer: Any) -> Apply:
    """Tompson et al. 2015, arXiv:1411.4280: whole channels become 0."""
    only(layer, "use data_format='channels_last'", data_format="channels_last")
    rate = float(layer.rate)

    def apply(run: Pass, x: Tensor) -> Tensor:
        if not run.training or rate == 0:
            return x
        between = (1,) * (len(x.shape) - 2)
        return x * _kept(run.noise(x.shape[0], (*between, x.shape[-1])), rate)

    return apply


def _gaussian(run: Pass, x: Tensor) -> Tensor:
    """Standard normal numbers of x's shape, two uniform ones each (Box, Muller 1958)."""
    u = run.noise(x.shape[0], (2, *x.shape[1:]))
    first, second = (tf.reshape(part, x.shape) for part in tf.split(u, 2, axis=1))
    # 1 - u is never 0; u may be.
    return tf.sqrt(-2.0 * tf.math.log(1.0 - first)) * tf.cos((2.0 * math.pi) * second)


def gaussian_noise(layer: Any) -> Apply:
    stddev = float(layer.stddev)

    def apply(run: Pass, x: Tensor) -> Tensor:
        return x + stddev * _gaussian(run, x) if run.training and stddev > 0 else x

    return apply


def gaussian_dropout(layer: Any) -> Apply:
    """Multiply with 1 + N(0, rate / (1 - rate))."""
    rate = float(layer.rate)
    stddev = math.sqrt(rate / (1.0 - rate))

    def apply(run: Pass, x: Tensor) -> Tensor:
        return x * (1.0 + stddev * _gaussian(run, x)) if run.training and rate > 0 else x

    return apply

"""Optimisers whose state is variables of the graph, one operator as seldom as possible.

The learning rate is an input of every step, and changes between rounds only; `reset` sets the
state to zero when a round starts.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from qflare.host.model.manifest import Optimiser

Tensor = Any


class Rule(Protocol):
    """How gradients move weights. Must be kept by the module: it owns variables."""

    state: list[Any]  # of tf.Variables, which `reset` sets to zero

    def apply(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor
    ) -> list[Tensor]:
        """The new weights; the state is assigned."""


class Sgd:
    """w - lr g."""

    def __init__(self) -> None:
        self.state: list[Any] = []

    def apply(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor
    ) -> list[Tensor]:
        return [w - lr * g for w, g in zip(weights, gradients, strict=True)]


class Momentum:
    """v = momentum v + g, w - lr v (Polyak 1964), without Nesterov's correction.

    Keras keeps lr v in place of v: the same as long as lr stays, as it does within a round.
    """

    def __init__(self, momentum: float, shapes: Sequence[Sequence[int]]) -> None:
        self._momentum = momentum
        self.state = _zeros("velocity", shapes)

    def apply(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor
    ) -> list[Tensor]:
        found = []
        for w, v, g in zip(weights, self.state, gradients, strict=True):
            velocity = self._momentum * v + g
            v.assign(velocity)
            found.append(w - lr * velocity)
        return found


class Adam:
    """Kingma, Ba 2015, arXiv:1412.6980, with epsilon where Keras has it."""

    def __init__(
        self, beta1: float, beta2: float, epsilon: float, shapes: Sequence[Sequence[int]]
    ) -> None:
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._first, self._second = _zeros("first", shapes), _zeros("second", shapes)
        self._time = _zeros("time", [(1,)])
        self.state = [*self._first, *self._second, *self._time]

    def apply(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor
    ) -> list[Tensor]:
        (clock,) = self._time
        now = clock + 1.0
        clock.assign(now)
        # beta^t as e^(t log beta): the interpreter has no fast power.
        rate = lr * tf.sqrt(1.0 - tf.exp(now * float(np.log(self._beta2))))
        if self._beta1 > 0:
            rate = rate / (1.0 - tf.exp(now * float(np.log(self._beta1))))
        found = []
        for w, m, v, g in zip(weights, self._first, self._second, gradients, strict=True):
            first = self._beta1 * m + (1.0 - self._beta1) * g
            second = self._beta2 * v + (1.0 - self._beta2) * (g * g)
            m.assign(first)
            v.assign(second)
            found.append(w - rate * first / (tf.sqrt(second) + self._epsilon))
        return found


def make_rule(optimiser: Optimiser, shapes: Sequence[Sequence[int]]) -> Rule:
    """The rule that a manifest names, for weights of these shapes."""
    match optimiser.name:
        case "sgd":
            return Sgd()
        case "momentum":
            return Momentum(optimiser.momentum, shapes)
        case "adam":
            return Adam(optimiser.beta1, optimiser.beta2, optimiser.epsilon, shapes)


def _zeros(name: str, shapes: Sequence[Sequence[int]]) -> list[Any]:
    return [
        tf.Variable(np.zeros(shape, np.float32), trainable=False, name=f"{name}{i}")
        for i, shape in enumerate(shapes)
    ]

"""PyTorch on the CPU: its own layers and its fused SGD, eager and compiled."""

import shutil
from typing import Any

import torch
from torch import nn

from benchmarks.training.models import MOMENTUM, Array, Model, batches, initial_weights


def variants(model: Model) -> tuple[str, ...]:
    """The ways in which this framework can train `model`; the faster counts."""
    del model
    return ("eager", "compiled") if shutil.which("g++") or shutil.which("c++") else ("eager",)


def version() -> str:
    """What is measured."""
    return f"torch {torch.__version__}"


class _Gru(nn.Module):
    """The last output of a GRU."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, units, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.gru(x)[0][:, -1]


class _ChannelsFirst(nn.Module):
    """(batch, …, channels) as Keras has it, to (batch, channels, …)."""

    def forward(self, x: Any) -> Any:
        return x.movedim(-1, 1)


class _Flatten(nn.Module):
    """Flatten in the order of Keras: channels last."""

    def forward(self, x: Any) -> Any:
        return x.movedim(1, -1).flatten(1)


class _Average(nn.Module):
    """The mean over time."""

    def forward(self, x: Any) -> Any:
        return x.mean(dim=2)


def network(model: Model) -> nn.Module:
    """The same layers as `keras_model`, with weights of PyTorch's own."""
    shapes = dict(model.parameters)
    layers: list[nn.Module] = []
    convs = [shape for name, shape in shapes.items() if name.startswith("conv") and len(shape) > 1]
    if convs:
        layers.append(_ChannelsFirst())
    for *kernel, inputs, outputs in convs:
        if len(kernel) == 1:
            padding = (kernel[0] - 2) // 2
            layers.append(nn.Conv1d(inputs, outputs, kernel[0], stride=2, padding=padding))
            layers.append(nn.ReLU())
        else:
            conv = nn.Conv2d(inputs, outputs, kernel[0], padding=1)
            layers += [conv, nn.ReLU(), nn.MaxPool2d(2)]
    if convs:
        layers.append(_Average() if len(convs[0]) == 3 else _Flatten())
    if model.name == "gru":
        layers.append(_Gru(6, 32))
    dense = [shape for name, shape in shapes.items() if name.startswith("dense") and len(shape) > 1]
    for i, (inputs, outputs) in enumerate(dense):
        layers.append(nn.Linear(inputs, outputs))
        if i < len(dense) - 1:
            layers.append(nn.ReLU() if model.classes else nn.Tanh())
    return nn.Sequential(*layers)


def from_keras(model: Model) -> list[Array]:
    """The initial weights in PyTorch's order and layout."""
    weights: list[Array] = []
    for (name, shape), value in zip(model.parameters, initial_weights(model), strict=True):
        if name == "gru/bias":  # one for the input, one for the state
            weights += [_gates(value[0]), _gates(value[1])]
        elif name.startswith("gru/"):
            weights.append(_gates(value).T)
        elif len(shape) == 2:
            weights.append(value.T)
        else:  # (…, in, out) to (out, in, …)
            weights.append(value.transpose(-1, -2, *range(len(shape) - 2)) if shape[1:] else value)
    return [value.copy() for value in weights]


def _gates(value: Array) -> Array:
    """Keras has update, reset, new; PyTorch has reset, update, new."""
    units = value.shape[-1] // 3
    order = [*range(units, 2 * units), *range(units), *range(2 * units, 3 * units)]
    return value[..., order]


class Side:
    """Autograd and `torch.optim.SGD`."""

    def __init__(self, model: Model, variant: str, threads: int, file: str) -> None:
        del file
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self._initial = [torch.from_numpy(value) for value in from_keras(model)]
        self._net = network(model)
        self._rate = model.learning_rate
        self._batches = [
            (torch.from_numpy(x), torch.from_numpy(x if y is None else y.astype("int64")))
            for x, y in batches(model)
        ]
        loss = nn.CrossEntropyLoss() if model.classes else nn.MSELoss()

        def forward(x: Any, y: Any) -> Any:
            return loss(self._net(x), y)

        self._forward = torch.compile(forward) if variant == "compiled" else forward

    def reset(self) -> None:
        parameters = list(self._net.parameters())
        with torch.no_grad():
            for parameter, value in zip(parameters, self._initial, strict=True):
                parameter.copy_(value)
        self._sgd = torch.optim.SGD(parameters, lr=self._rate, momentum=MOMENTUM, fused=True)

    def step(self, i: int) -> float:
        x, y = self._batches[i % len(self._batches)]
        self._sgd.zero_grad()
        loss = self._forward(x, y)
        loss.backward()
        self._sgd.step()
        return float(loss)

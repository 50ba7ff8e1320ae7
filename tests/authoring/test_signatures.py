"""The signatures of built files are the contract's, to the letter."""

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

from edge_runtime.contract import parse_contract  # noqa: E402
from qflare.authoring.interpreter import open_interpreter  # noqa: E402
from tests.authoring import kit  # noqa: E402

B = kit.BATCH
F, I = np.float32, np.int32  # noqa: E741
ONE = ((1,), F)


def linear() -> Any:
    return kit.mlp(None, 6)


CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "classification": (
        kit.mlp,
        {"task": "classification"},
        {"x": ((B, 6), F), "y": ((B,), I), "m": ((B,), F), "lr": ONE, "mu": ONE},
    ),
    "dropout": (
        kit.dropout_mlp,
        {"task": "classification"},
        {"x": ((B, 6), F), "y": ((B,), I), "m": ((B,), F), "lr": ONE, "mu": ONE, "r": ((B, 16), F)},
    ),
    "regression": (
        linear,
        {"task": "regression"},
        {"x": ((B, 6), F), "y": ((B, 6), F), "m": ((B,), F), "lr": ONE, "mu": ONE},
    ),
    "autoencoder": (
        linear,
        {"task": "autoencoder"},
        {"x": ((B, 6), F), "m": ((B,), F), "lr": ONE, "mu": ONE},
    ),
    "multilabel of whole numbers": (
        kit.embedding,
        {"task": "multilabel"},
        {"x": ((B, 5), I), "y": ((B, 2), F), "m": ((B,), F), "lr": ONE, "mu": ONE},
    ),
    "private with a personal head": (
        kit.mlp,
        {"task": "classification", "private": True, "personal": ("head",)},
        {
            "x": ((B, 6), F),
            "y": ((B,), I),
            "m": ((B,), F),
            "lr": ONE,
            "mu": ONE,
            "clip": ONE,
            "z": ((6 * 10 + 10 + 10 * 3 + 3,), F),
        },
    ),
    "cached features": (
        kit.frozen_prefix,
        {"task": "classification", "cache_features": True},
        {"x": ((B, 9), F), "y": ((B,), I), "m": ((B,), F), "lr": ONE, "mu": ONE},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_signatures(case: str) -> None:
    make, options, train = CASES[case]
    file = kit.built(make, **options)
    manifest = file.manifest
    tensors = {f"w{i}": (tuple(p.shape), F) for i, p in enumerate(manifest.parameters)}
    tensors |= {f"p{i}": (tuple(p.shape), F) for i, p in enumerate(manifest.personal)}
    rows = ((manifest.rows,), F)
    raw = {"x": ((B, *manifest.input.shape), I if manifest.input.dtype == "int32" else F)}
    wanted = {
        "train": (train, {"loss": ONE}),
        "evaluate": (
            {key: train[key] for key in ("x", "y", "m") if key in train},
            {"loss_sum": ONE, "examples": rows, "correct": rows},
        ),
        "infer": (raw, {"output": ((B, *manifest.output), F)}),
        "get_weights": ({}, tensors),
        "set_weights": (tensors, {"ok": ONE}),
        "reset": ({}, {"ok": ONE}),
    }
    if manifest.features:
        wanted["features"] = (raw, {"f": ((B, *manifest.features), F)})
    interpreter = open_interpreter(file.tflite)
    assert sorted(interpreter.get_signature_list()) == sorted(wanted)
    for name, (inputs, outputs) in wanted.items():
        runner = interpreter.get_signature_runner(name)
        for details, want in (
            (runner.get_input_details(), inputs),
            (runner.get_output_details(), outputs),
        ):
            found = {k: (tuple(map(int, d["shape"])), d["dtype"]) for k, d in details.items()}
            assert found == want, name
            assert all(found[k][0] for k in found), "a scalar crashes LiteRT on aarch64"
    assert parse_contract(file.tflite).manifest == manifest


def test_federated_and_personal_parameters_are_apart_and_in_keras_order() -> None:
    manifest = kit.built(kit.mlp, task="classification", private=True, personal=("head",)).manifest
    assert [p.name for p in manifest.parameters] == ["body/kernel", "body/bias"]
    assert [p.name for p in manifest.personal] == ["head/kernel", "head/bias"]

"""The application's file computes what the trainer's `infer` does, for every form of model."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.contract import ModelContract, parse_contract
from edge_runtime.engine import Engine
from edge_runtime.interpreter import open_interpreter
from edge_runtime.serving.export import application_file
from qflare.faults import LocalFault, PeerFault
from qflare.host.model import read_model
from qflare.tensors import FloatVector

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [*(ROOT / "qflare/zoo").rglob("*.tflite"), *(ROOT / "tests/models").glob("*.tflite")]
)


def some_weights(contract: ModelContract, tflite: bytes) -> tuple[FloatVector, FloatVector]:
    random = np.random.default_rng(1)
    start = np.frombuffer(read_model(tflite).weights, "<f4")
    noise = random.normal(0, 0.05, contract.spec.size).astype("<f4")
    return start + noise, random.normal(0, 0.1, contract.personal_size).astype("<f4")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_gives_the_trainer_s_very_outputs(path: Path) -> None:
    tflite = path.read_bytes()
    contract = parse_contract(tflite)
    weights, personal = some_weights(contract, tflite)
    made = application_file(tflite, weights.tobytes(), personal.tobytes())
    engine = Engine(contract, tflite)
    engine.load(weights, personal)
    x = np.random.default_rng(2).normal(0, 1, (contract.batch, *contract.input_shape))
    x = x.astype(contract.manifest.input.dtype)
    wanted = engine.call["infer"](x=x)["output"]
    for name in ("infer", "serving_default"):
        runner = open_interpreter(made).get_signature_runner(name)
        np.testing.assert_array_equal(runner(x=x)["output"], wanted)
    # A program that knows nothing of signatures.
    plain = open_interpreter(made)
    plain.allocate_tensors()
    (inputs,), (outputs,) = plain.get_input_details(), plain.get_output_details()
    plain.set_tensor(inputs["index"], x)
    plain.invoke()
    np.testing.assert_array_equal(plain.get_tensor(outputs["index"]), wanted)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_holds_weights_and_manifest_and_little_else(path: Path) -> None:
    tflite = path.read_bytes()
    contract = parse_contract(tflite)
    weights, personal = some_weights(contract, tflite)
    made = application_file(tflite, weights.tobytes(), personal.tobytes())
    found = read_model(made)
    assert found.manifest == contract.manifest
    assert (found.weights, found.personal) == (weights.tobytes(), personal.tobytes())
    assert len(made) < len(tflite)
    assert made == application_file(tflite, weights.tobytes(), personal.tobytes())
    with pytest.raises(PeerFault, match="no signature"):
        parse_contract(made)  # it can't be mistaken for a model that trains


def test_personal_parameters_start_where_the_model_does() -> None:
    tflite = (ROOT / "tests/models/classifier.tflite").read_bytes()
    model = read_model(tflite)
    assert model.personal
    assert read_model(application_file(tflite, model.weights)).personal == model.personal


def test_weights_of_another_model_are_refused() -> None:
    tflite = (ROOT / "tests/models/classifier.tflite").read_bytes()
    with pytest.raises(LocalFault, match="bytes of weights"):
        application_file(tflite, bytes(12))
    with pytest.raises(LocalFault, match="personal"):
        application_file(tflite, read_model(tflite).weights, bytes(4))


TINY = (ROOT / "tests/models/regression.tflite").read_bytes()
WEIGHTS = read_model(TINY).weights


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(TINY) - 1), new=st.binary(min_size=1, max_size=8))
def test_a_damaged_model_gives_a_fault_and_nothing_else(at: int, new: bytes) -> None:
    damaged = (TINY[:at] + new + TINY[at + len(new) :])[: len(TINY)]
    with suppress(PeerFault, LocalFault):
        application_file(damaged, WEIGHTS)

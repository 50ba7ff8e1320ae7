"""The same model and options give the same bytes, wherever and whenever they are built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

from qflare.authoring.build import build_model  # noqa: E402
from qflare.authoring.load import load_model  # noqa: E402
from qflare.authoring.options import BuildOptions  # noqa: E402
from qflare.host.model import read_metadata, read_model  # noqa: E402

MODEL = """
import keras
from keras import layers


def make_model():
    seed = keras.initializers.GlorotUniform
    return keras.Sequential([
        keras.Input((16, 2)),
        layers.Conv1D(4, 3, activation="relu", kernel_initializer=seed(seed=1)),
        layers.BatchNormalization(),
        layers.Dropout(0.2),
        layers.GRU(5, kernel_initializer=seed(seed=2), recurrent_initializer=seed(seed=3)),
        layers.Dense(4, kernel_initializer=seed(seed=4)),
        layers.Dense(3, activation="softmax", kernel_initializer=seed(seed=5)),
    ])
"""
BUILD = """
import sys
from qflare.authoring.build import build_model
from qflare.authoring.load import load_model
from qflare.authoring.options import BuildOptions
data = build_model(load_model(sys.argv[1]), BuildOptions(task="classification"))
open(sys.argv[2], "wb").write(data)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "my_model.py").write_text(MODEL)
    return tmp_path / "my_model.py"


def test_builds_are_the_same_in_one_process_and_in_another(source: Path, tmp_path: Path) -> None:
    options = BuildOptions(task="classification")
    first = build_model(load_model(str(source)), options)
    second = build_model(load_model(f"{source}:make_model"), options)
    assert first == second
    elsewhere = tmp_path / "quite another place"
    elsewhere.mkdir()
    environment = {
        **os.environ,
        "TMPDIR": str(elsewhere),
        "PYTHONHASHSEED": "77",
        "PYTHONPATH": ".",
    }
    command = [sys.executable, "-c", BUILD, str(source), str(elsewhere / "out.tflite")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (elsewhere / "out.tflite").read_bytes() == first
    for word in (b"qflare-build", str(tmp_path).encode(), b"gru_cell", b"__inference"):
        assert word not in first


def test_names_that_keras_makes_up_change_nothing_but_the_names(source: Path) -> None:
    """Layers are called dense_2 in place of dense when others were made before."""
    import keras

    make = load_model  # which resets the numbers that Keras counts
    first = build_model(make(str(source)), BuildOptions(task="classification"))
    keras.utils.clear_session()
    keras.layers.Dense(1), keras.layers.GRU(1), keras.layers.Conv1D(1, 1)
    scope: dict[str, object] = {}
    exec(MODEL, scope)  # noqa: S102
    second = build_model(scope["make_model"](), BuildOptions(task="classification"))  # type: ignore[operator]
    names = [[p.name for p in read_model(data).manifest.parameters] for data in (first, second)]
    assert names[0] != names[1]
    weights = [read_model(data).weights for data in (first, second)]
    assert weights[0] == weights[1]
    assert abs(len(first) - len(second)) < 200


def test_initial_weights_are_stored_once(source: Path) -> None:
    import keras

    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(512, activation="relu"), keras.layers.Dense(2)]
    )
    data = build_model(model, BuildOptions(task="classification", optimiser="adam"))
    entries = read_metadata(data)
    kernel = bytes(entries["qflare-w0"])
    assert len(kernel) == 4 * 64 * 512
    assert data.count(kernel) == 1
    assert kernel == model.layers[0].kernel.numpy().tobytes()
    assert b"CONVERSION_METADATA" not in data

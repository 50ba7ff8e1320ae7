"""The models that ship with QFLARE are the ones that their scripts make."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from qflare import zoo
from qflare.faults import LocalFault
from qflare.zoo.watch_cnn import shape

FOLDER = Path(zoo.__file__).parent / "watch_cnn"


def test_a_model_says_what_it_is() -> None:
    model = zoo.load("watch_cnn")
    says = model.manifest
    assert len(model.tflite) < 200_000
    assert len(model.weights) == 4 * says.size == 4 * 7_095
    assert [(p.name, tuple(p.shape)) for p in says.parameters] == list(shape.PARAMETERS)
    assert says.rows == 7


def test_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(LocalFault, match="watch_cnn"):
        zoo.load("nonesuch")


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("tensorflow") is None,
    reason="TensorFlow is not installed (pip install 'qflare[authoring]')",
)
def test_authoring_gives_the_committed_bytes() -> None:
    command = [sys.executable, "-m", "qflare.zoo.watch_cnn.author", "--check"]
    done = subprocess.run(
        [*command, "-o", FOLDER / "watch_cnn.tflite"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

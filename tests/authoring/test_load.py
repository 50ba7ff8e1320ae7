"""Models are found by name, and what is in the way is said in the developer's own terms."""

import json
from pathlib import Path

import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

import keras  # noqa: E402

from qflare.authoring.load import load_model  # noqa: E402
from qflare.cli import main  # noqa: E402
from qflare.faults import LocalFault  # noqa: E402
from qflare.host.model import read_model  # noqa: E402

SOURCE = """
import keras
from neighbour import UNITS

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(UNITS)])


def make_model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(UNITS, name="head")])


def helper(units):
    return keras.layers.Dense(units)


def raises():
    return helper("many")


def nothing():
    make_model()


def unbuilt():
    return keras.Sequential([keras.layers.Dense(2)])


class Own(keras.Model):
    def call(self, x):
        return x


def number():
    return 7


def pair():
    a, b = keras.Input((3,)), keras.Input((3,))
    return keras.Model([a, b], keras.layers.Add()([a, b]))


def strange():
    return keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x, name="odd")])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_model.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("UNITS = 3\n")
    (tmp_path / "broken.py").write_text("import keras\nkeras.layers.Dens(3)\n")
    (tmp_path / "torn.py").write_text("def make_model(:\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "place", ["my_model.py", "my_model.py:make_model", "my_model.py:model", "my_model:make_model"]
)
def test_a_model_is_found(folder: Path, place: str) -> None:
    assert load_model(place).output_shape == (None, 3)
    assert load_model(str(folder / "my_model.py")).output_shape == (None, 3)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere.py", "nowhere.py: no such file; name it as my_model.py:make_model"),
        ("no.such.module:f", "no module is called 'no.such.module'"),
        ("some/where", "some/where is no Python file"),
        (":f", "is no place of a model"),
        ("my_model.py:made", r"my_model.py has no 'made' \(it has: model, make_model, helper"),
        ("my_model.py:helper", r"(?s)helper\(\) failed.*missing 1 required positional"),
        ("my_model.py:raises", r"(?s)my_model.py:17, in raises: .*units"),
        ("my_model.py:nothing", "end the function with: return model"),
        ("my_model.py:unbuilt", r"start it with keras.Input\(shape\)"),
        ("my_model.py:Own", "a model of a class of its own"),
        ("my_model.py:number", r"gave a builtins.int, no Keras model"),
        ("my_model.py:pair", "2 inputs and 1 outputs"),
        ("broken.py", r"(?s)importing it failed.*broken.py:2, in <module>.*Dens"),
        ("torn.py", r"(?s)importing it failed\n +File [^\n]*torn.py.*SyntaxError"),
    ],
)
def test_what_is_in_the_way(folder: Path, place: str, says: str) -> None:
    with pytest.raises(LocalFault, match=says):
        load_model(place)


def test_the_command_builds_and_says_what_comes_next(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model", "build", "my_model.py", "--task", "classification", "-o", "out.tflite"]
    words += ["--classes", "a,b,c", "--batch", "4", "--optimizer", "adam"]
    assert main(words) == 0
    out, progress = capsys.readouterr()
    assert "out version 1, classification" in out
    assert "15 that the fleet learns" in out
    assert "3 classes: a, b, c" in out
    assert "adam, cross_entropy, batches of 4" in out
    assert "qflare model check out.tflite" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "loading TensorFlow" in progress
    assert "WARNING" not in progress
    assert len(progress.splitlines()) <= 8
    file = read_model((folder / "out.tflite").read_bytes())
    assert file.manifest.classes == ["a", "b", "c"]
    assert file.manifest.optimiser.name == "adam"
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == str(file.digest)


def test_a_layer_that_cannot_train_is_named_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model", "build", "my_model.py:strange", "--task", "regression", "-o", "out.tflite"]
    assert main(words) == 1
    assert "odd (Lambda)" in capsys.readouterr().err
    assert not (folder / "out.tflite").exists()
    assert keras.config.floatx() == "float32"

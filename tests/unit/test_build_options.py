"""Building a model: everything that is refused before TensorFlow is loaded, or without it."""

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from qflare.authoring.command import add_build, build_options, run
from qflare.authoring.options import BuildOptions, InputSchema, read_schema
from qflare.faults import LocalFault

SCHEMA = """
classes = ["walk", "run"]
[input]
channels = ["ax", "ay"]
units = ["g", "g"]
mean = [0, 0.5]
scale = [1, 2]
rate_hz = 50
shape = [128, 2]
"""


def arguments(tmp_path: Path, *words: str, task: str = "classification") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_build(parser.add_subparsers())
    output = str(tmp_path / "My Model-2.tflite")
    return parser.parse_args(["build", "my_model.py", "--task", task, "-o", output, *words])


def test_defaults(tmp_path: Path) -> None:
    options = build_options(arguments(tmp_path))
    assert options == BuildOptions(
        task="classification",
        name="my_model-2",
        made_by="qflare model build my_model.py --task classification --optimizer momentum "
        "--momentum 0.9 --batch 16",
    )
    assert options.chosen_loss == "cross_entropy"


def test_a_schema_gives_input_and_classes_and_whole_numbers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(SCHEMA)
    options = build_options(arguments(tmp_path, "--schema", str(path)))
    assert options.classes == ("walk", "run")
    assert options.input == InputSchema(
        channels=["ax", "ay"],
        units=["g", "g"],
        mean=[0.0, 0.5],
        scale=[1.0, 2.0],
        rate_hz=50.0,
        shape=[128, 2],
    )
    assert str(tmp_path) not in options.made_by
    named = build_options(arguments(tmp_path, "--schema", str(path), "--classes", "a,b"))
    assert named.classes == ("a", "b")
    # The labels of a data set are of no use to a model that gives numbers.
    assert not build_options(arguments(tmp_path, "--schema", str(path), task="autoencoder")).classes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("classes = [1]", "classes.0"),
        ("[input]\nscale = [0]", "input.scale.0"),
        ("[input]\nchanels = ['a']", "input.chanels"),
        ("[input]\nmean = [nan]", "input.mean.0"),
        ("input = 3", "input"),
        ("classes = [", "not TOML"),
    ],
)
def test_a_wrong_schema_is_named_with_the_field(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(text)
    with pytest.raises(LocalFault, match=f"schema.toml.*{says}"):
        read_schema(path)


def test_no_schema_says_who_writes_one(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match="qflare data import"):
        read_schema(tmp_path / "schema.toml")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "clustering"}, "classification, multilabel"),
        ({"loss": "mse"}, "choose one of cross_entropy"),
        ({"task": "regression", "loss": "hinge"}, "mse, mae, huber"),
        ({"optimiser": "lion"}, "sgd, momentum, adam"),
        ({"batch_norm": "none"}, "average, local, frozen"),
        ({"batch": 0}, "1…4096"),
        ({"momentum": 1.0}, "less than 1"),
        ({"task": "regression", "classes": ("a",)}, "no classes"),
        ({"task": "multilabel", "class_weights": (1.0,)}, "leave them out"),
        ({"class_weights": (1.0, -1.0)}, "aren't negative"),
        ({"class_weights": (1.0, float("nan"))}, "aren't negative"),
        ({"task": "autoencoder", "cache_features": True}, "cached features"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], says: str) -> None:
    with pytest.raises(LocalFault, match=says):
        BuildOptions(**{"task": "classification", **options})


def test_wrong_places_are_named_before_the_long_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments(tmp_path)
    with pytest.raises(LocalFault, match=r"my_model.py: no such file; name the model as"):
        run(given)
    given.output = tmp_path / "nowhere" / "m.tflite"
    with pytest.raises(LocalFault, match="no such folder"):
        run(given)


def test_without_tensorflow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text("")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(LocalFault, match=r"pip install 'qflare\[authoring\]'"):
        run(arguments(tmp_path))


@pytest.mark.parametrize(
    "words", [("--classes", "a,,b"), ("--class-weights", "1,x"), ("--optimizer", "lion")]
)
def test_wrong_words_are_wrong_usage(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        arguments(tmp_path, *words)
    assert left.value.code == 2

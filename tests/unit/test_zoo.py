"""The models that ship with QFLARE: each is what its folder says, and learns its data set."""

import math
import tomllib
from pathlib import Path

import pytest

from qflare import zoo
from qflare.faults import LocalFault
from qflare.simulate.data import DATASETS

FOLDER = Path(zoo.__file__).parent
SIZES = {
    "watch_cnn": 7_095,
    "watch_gru": 4_071,
    "fashion_cnn": 9_098,
    "fashion_transfer": 15_690,
    "shuttle_autoencoder": 461,
}


@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_model_is_what_its_folder_says(name: str) -> None:
    model = zoo.load(name)
    manifest = model.manifest
    asked = tomllib.loads((FOLDER / name / "build.toml").read_text())
    schema = tomllib.loads((FOLDER / name / "schema.toml").read_text())
    assert (manifest.name, manifest.size) == (name, SIZES[name])
    assert (manifest.task, manifest.version) == (asked["task"], asked["version"])
    assert manifest.classes == schema.get("classes", [])
    assert manifest.input.shape == schema["input"]["shape"]
    assert manifest.input.mean == pytest.approx(schema["input"]["mean"])
    assert manifest.input.scale == pytest.approx(schema["input"]["scale"])
    assert manifest.licence == "Apache-2.0"
    assert name in manifest.made_by
    assert math.isfinite(sum(manifest.golden.losses))


@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_file_is_hardly_larger_than_its_numbers(name: str) -> None:
    model = zoo.load(name)
    scalars = model.manifest.size + model.manifest.frozen
    assert len(model.tflite) <= 1.3 * 4 * scalars + 150_000


def test_every_model_has_an_entry() -> None:
    assert {*zoo.MODELS} == {*SIZES}
    for name in zoo.MODELS:
        known = zoo.entry(name)
        assert known.dataset in DATASETS
        assert known.about
        assert zoo.recommended_schedule(name) == known.schedule
        assert zoo.recommended_schedule(name, 7).rounds == 7
        assert (FOLDER / name / "model.py").is_file()


def test_unknown_model_names_the_known_ones() -> None:
    for ask in (zoo.load, zoo.entry, zoo.recommended_schedule):
        with pytest.raises(LocalFault, match="watch_cnn"):
            ask("nonesuch")

"""What a person asks for: refused before anything is started or removed."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from qflare import zoo
from qflare.faults import LocalFault
from qflare.names import DeviceId
from qflare.simulate.data import DeviceData, Labelled, write_device
from qflare.simulate.options import Options, bounds, complete, policy


@pytest.mark.parametrize(
    "wrong",
    [
        {"devices": 0},
        {"rounds": 0},
        {"cohort": 21},
        {"seed": -1},
        {"workers": 65},
        {"deadline_s": 0},
        {"suite": "rot13"},
        {"codec": "zip"},
        {"model": "nonesuch"},
        {"model": "nonesuch.tflite"},
        {"dataset": "nonesuch"},
        {"learning_rate": -0.1},
        {"local_epochs": -1},
        {"proximal_mu": -1.0},
        {"noise_multiplier": 1.0},
        {"example_clip": 1.0},  # of a model that can't
        {"dataset": "fashion"},  # of a model for motion
        {"model": "shuttle_autoencoder", "dataset": "watch"},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LocalFault):
        Options(**wrong)  # type: ignore[arg-type]


def test_the_policy_is_within_the_owners_bounds() -> None:
    for cohort in (0, 1, 7):
        made = policy(Options(cohort=cohort))
        bounds(made).verify(made)
        assert made.min_cohort >= (cohort or 20) / 2


def asked(**values: object) -> dict[str, object]:
    """What the command passes on: everything, None where nothing was said."""
    unsaid = dict.fromkeys(("devices", "rounds", "dataset"))
    return {f.name: f.default for f in fields(Options)} | unsaid | values


@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_zoo_model_brings_its_data_set_and_schedule(name: str) -> None:
    known = zoo.entry(name)
    options = complete(asked(model=name))
    assert (options.dataset, options.rounds) == (known.dataset, known.schedule.rounds)
    assert options.devices == 20
    assert policy(options).schedule == known.schedule
    faster = complete(asked(model=name, rounds=7, learning_rate=0.5, local_epochs=2)).schedule
    assert (faster.rounds, faster.learning_rate, faster.local_epochs) == (7, 0.5, 2)
    assert faster.server_momentum == known.schedule.server_momentum


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of three devices with motion of one's own."""
    folder = tmp_path / "own"
    for name in ("a", "b", "c"):
        part = Labelled(np.ones((4, 128, 6), np.float32), np.zeros(4, np.int32))
        write_device(folder / f"{name}.npz", DeviceData(DeviceId.parse(name), part, part))
    (folder / "schema.toml").write_text("")
    return folder


def test_ones_own_model_and_data(own: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(zoo.load("watch_gru").tflite)
    options = complete(asked(model=str(path), dataset=str(own)))
    assert (options.devices, options.rounds) == (3, 20)
    assert policy(options).schedule.learning_rate == 0.03
    assert options.command == (f"qflare simulate --devices=3 --dataset={own} --model={path}")
    with pytest.raises(LocalFault, match="--dataset: name what"):
        complete(asked(model=str(path)))
    with pytest.raises(LocalFault, match="has 3 devices"):
        complete(asked(model=str(path), dataset=str(own), devices=4))
    path.write_bytes(b"not a model")
    with pytest.raises(LocalFault, match="not a TFLite model"):
        complete(asked(model=str(path), dataset=str(own)))


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (Labelled(np.ones((4, 128, 5), np.float32), np.zeros(4, np.int32)), r"128, 6\]"),
        (Labelled(np.ones((4, 128, 6), np.float64), np.zeros(4, np.int32)), "float64"),
        (Labelled(np.ones((4, 128, 6), np.float32), np.zeros(4, np.int64)), r"wants int32\[n\]"),
        (Labelled(np.ones((4, 128, 6), np.float32), None), "y_train"),
        (Labelled(np.ones((0, 128, 6), np.float32), np.zeros(0, np.int32)), "no examples"),
    ],
)
def test_files_that_do_not_suit_are_named(own: Path, train: Labelled, words: str) -> None:
    write_device(own / "b.npz", DeviceData(DeviceId.parse("b"), train, train))
    with pytest.raises(LocalFault, match=f"b.npz.*{words}"):
        complete(asked(dataset=str(own)))


def test_a_folder_that_is_called_like_a_data_set(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    own.rename("watch")
    with pytest.raises(LocalFault, match=r"say \./watch for the folder"):
        complete(asked(dataset="watch"))
    assert complete(asked(dataset="./watch")).devices == 3
    assert complete(asked()).devices == 20


def test_folders_that_are_none(own: Path, tmp_path: Path) -> None:
    (own / "b.npz").write_bytes(b"PK nothing")
    with pytest.raises(LocalFault, match=r"b\.npz is no data file"):
        complete(asked(dataset=str(own)))
    (own / "b.npz").rename(own / "Big Name.npz")
    with pytest.raises(LocalFault, match="rename the file"):
        complete(asked(dataset=str(own)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(LocalFault, match=r"no \.npz files"):
        complete(asked(dataset=str(tmp_path / "empty")))
    with pytest.raises(LocalFault, match="neither a data set's name nor a folder"):
        complete(asked(dataset="nonesuch"))


@pytest.mark.parametrize("redirect", ["closed", "ascii"])
def test_help_survives_odd_output(redirect: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "qflare.cli", "--help"]
    if redirect == "closed":
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command], env=environment, capture_output=True
        )
    else:
        done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr

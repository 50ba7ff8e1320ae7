"""An autoencoder's score: the textbook's numbers, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.scoring import errors_of, main, score
from qflare import zoo
from qflare.faults import LocalFault
from qflare.tensors import weights_from_bytes


def test_auc_and_recall_of_known_errors() -> None:
    strange = np.array([False, False, True, True])
    assert score(np.array([1.0, 2.0, 3.0, 4.0]), strange).auc == 1.0
    assert score(np.array([3.0, 4.0, 1.0, 2.0]), strange).auc == 0.0
    assert score(np.array([1.0, 3.0, 2.0, 4.0]), strange).auc == 0.75
    assert score(np.ones(4), strange).auc == 0.5
    many = np.concatenate([np.arange(1000.0), [988.5, 990.5, 2000.0]])
    assert score(many, np.arange(1003) >= 1000).recall == pytest.approx(2 / 3)


def test_auc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    errors, strange = random.integers(0, 9, 60).astype(float), random.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in errors[strange] for b in errors[~strange]]
    assert score(errors, strange).auc == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("errors", "strange", "words"),
    [
        ([1.0, 2.0], [False, False], "some of each"),
        ([1.0, 2.0], [True, True], "some of each"),
        ([1.0, np.nan], [True, False], "diverged"),
    ],
)
def test_what_has_no_score(errors: list[float], strange: list[bool], words: str) -> None:
    with pytest.raises(LocalFault, match=words):
        score(np.array(errors), np.array(strange))


def test_errors_are_of_what_the_model_gives_back() -> None:
    model = zoo.load("shuttle_autoencoder")
    says = model.manifest
    weights = np.zeros(says.size, np.float32)  # gives back the mean, whatever goes in
    x = np.tile(np.array(says.input.mean, np.float32), (says.batch + 3, 1))
    x[-1] += 2 * np.array(says.input.scale, np.float32)
    found = errors_of(model, weights, x)
    np.testing.assert_allclose(found, [*np.zeros(says.batch + 2), 4.0], atol=1e-5)
    with pytest.raises(LocalFault, match="not an autoencoder"):
        errors_of(zoo.load("watch_cnn"), weights, x)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = zoo.load("shuttle_autoencoder")
    (tmp_path / "weights").write_bytes(model.weights)
    random = np.random.default_rng(1)
    x = np.asarray(model.manifest.input.mean) + random.normal(size=(40, 9))
    anomalous = np.arange(40) >= 30
    x[anomalous] += 80
    np.savez(tmp_path / "data.npz", x=x.astype(np.float32), anomalous=anomalous)
    arguments = ["--model", "shuttle_autoencoder", "--weights", str(tmp_path / "weights"), "--data"]
    assert main([*arguments, str(tmp_path / "data.npz"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    weights = weights_from_bytes(model.weights, model.manifest.size)
    assert said["auc"] == score(errors_of(model, weights, x), anomalous).auc == 1.0
    assert main([*arguments, str(tmp_path / "none.npz")]) == 1
    assert "none.npz" in capsys.readouterr().err

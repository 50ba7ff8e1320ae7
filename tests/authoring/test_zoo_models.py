"""The zoo's files are the ones that its Keras models make, byte for byte."""

import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

from qflare import zoo  # noqa: E402
from qflare.zoo import make  # noqa: E402


@pytest.mark.parametrize("name", zoo.MODELS)
def test_building_gives_the_committed_bytes(name: str) -> None:
    assert make.main(["--check", name]) == 0


def test_what_was_built_before_leaves_no_trace() -> None:
    import keras

    for _ in range(3):
        keras.layers.Dense(1)
    assert make.main(["--check", "fashion_cnn"]) == 0


def test_check_finds_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "build", lambda name: b"other")
    assert make.main(["--check", "watch_cnn", "fashion_cnn"]) == 2

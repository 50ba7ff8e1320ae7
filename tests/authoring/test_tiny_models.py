"""The tiny models that the device's tests use are the ones that their script makes."""

import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")


def test_the_committed_files_are_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.models.make import main

    assert main(["--check"]) == 0, capsys.readouterr().out

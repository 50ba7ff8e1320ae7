"""What the daemon tells its gates."""

import pytest

from edge_runtime import watch


@pytest.mark.parametrize(
    ("set_", "kept", "right"),
    [
        (False, True, False),  # nobody keeps a year right that hasn't come yet
        (False, None, False),
        (True, True, True),
        # A clock with a battery is right without the kernel's knowing: others decide.
        (True, False, None),
        (True, None, None),
    ],
)
def test_whether_the_clock_is_right(
    monkeypatch: pytest.MonkeyPatch, set_: bool, kept: bool | None, right: bool | None
) -> None:
    monkeypatch.setattr(watch, "clock_is_set", lambda: set_)
    monkeypatch.setattr(watch, "kept_right", lambda: kept)
    assert watch.clock_right() is right

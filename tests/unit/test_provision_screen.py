"""What the technician reads, on a terminal that is narrow."""

import io

import pytest

from edge_runtime.provision.label import drawing, text
from edge_runtime.provision.screen import PlainScreen, RichScreen


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setenv("COLUMNS", "60")
    return io.StringIO()


def test_a_long_line_goes_on_below_its_own_beginning(narrow: io.StringIO) -> None:
    screen = RichScreen(narrow, yes=True)
    screen.done("board", "Raspberry Pi 4 Model B Rev 1.4 (rpi4), serial 10000000abcdef01")
    screen.done("temperature", "47 degrees")
    first, second, third = (line.rstrip() for line in narrow.getvalue().splitlines())
    assert first == "✓  board       Raspberry Pi 4 Model B Rev 1.4 (rpi4), serial"
    assert second == " " * 15 + "10000000abcdef01"
    assert third == "✓  temperature 47 degrees"


def test_a_problem_stands_above_its_remedy(narrow: io.StringIO) -> None:
    RichScreen(narrow, yes=True).problem("not one byte came; check the cable; or the power")
    lines = [line.rstrip() for line in narrow.getvalue().splitlines()]
    assert lines == ["✗  not one byte came", "   check the cable; or the power"]
    plain = io.StringIO()
    PlainScreen(plain, yes=True).problem("not one byte came; check the cable")
    assert plain.getvalue() == "qflare: not one byte came; check the cable\n"


def test_what_is_told_again_and_again_is_shown_once(narrow: io.StringIO) -> None:
    screen = RichScreen(narrow, yes=True)
    for _ in range(3):
        screen.note("the line is cut")
    screen.done("port", "there")
    screen.note("the line is cut")
    assert narrow.getvalue().count("the line is cut") == 2


def test_nothing_that_a_board_says_controls_the_terminal(narrow: io.StringIO) -> None:
    screen = RichScreen(narrow, yes=True)
    screen.done("board", "[red]x\x1b[2J\x07 [/nope]")
    screen.busy("board", "\x1b[2J [/nope] [bold]")
    screen.problem("\x1b[31mno; [/x]\x1b[2J")
    screen.close()
    assert "\x1b" not in narrow.getvalue()
    assert "[red]x" in narrow.getvalue()


def test_a_label_has_the_code_and_the_words() -> None:
    import segno

    from edge_runtime.provision.jobs import Record

    record = Record(name="rpi4-<1>", board="rpi4", serial="s1", words="a b c d e f")
    made = drawing(segno.make("x", micro=False), text(record))
    assert made.count("<svg") == 2
    assert "rpi4-&lt;1&gt;" in made
    assert ">a b c</text>" in made

"""The live display of a simulation, on a terminal and off it."""

import io
from dataclasses import replace

from rich.console import Console

from qflare.simulate.display import (
    DisplayState,
    LiveDisplay,
    PlainDisplay,
    ProcessState,
    choose,
    panel,
    sparkline,
)

STATE = DisplayState(
    step=6,
    steps=20,
    phase="devices train",
    elapsed_s=15.0,
    invited=20,
    received=7,
    training=tuple(f"subject-{i:02d}-l" for i in range(1, 10)),
    accuracy=(0.4, 0.5, 0.58, 0.65, 0.7),
    judged=5,
    bytes_up=830_000,
    bytes_down=2_840_000,
    refused=1,
    processes=(ProcessState("broker", "running", 1), ProcessState("enclave", "restarting")),
)


def drawn(state: DisplayState, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(panel(state))
    return console.export_text()


def test_the_panel_says_what_goes_on() -> None:
    shown = drawn(STATE)
    for words in (
        "6 of 20",
        "devices train",
        "9 devices: subject-01-l",
        "and 3 more",
        "7 of 20 received, 1 refused",
        "70.0 %",
        "830.0 kB up, 2.8 MB down",
        "15 s, about 45 s left",
        "broker (1 restart)",
        "enclave restarting",
        "evidence: insecure_simulated (simulated: it proves nothing)",
    ):
        assert words in shown, words


def test_a_first_moment_has_no_accuracy_and_no_time_left() -> None:
    shown = drawn(DisplayState(step=0, steps=20, phase="starting", elapsed_s=0.2))
    assert "left" not in shown
    assert "0 of 20" in shown


def test_without_accuracy_the_loss_takes_its_place() -> None:
    state = replace(STATE, accuracy=(0.0,) * 5, loss=(0.9, 0.6, 0.5, 0.45, 0.432), counted=False)
    shown = drawn(state)
    assert "0.432" in shown
    assert "accuracy" not in shown
    assert "█" in shown  # the first and highest loss
    out = io.StringIO()
    PlainDisplay(out).update(state)
    assert "round 5/20: loss 0.432, 830.0 kB up" in out.getvalue()


def test_names_can_neither_steer_the_terminal_nor_style_it() -> None:
    shown = drawn(replace(STATE, training=("[red]a[/red]\x1b[2J",)))
    assert "[red]a[/red]" in shown
    assert "\x1b" not in shown


def test_plain_lines_come_once_a_round_and_at_restarts() -> None:
    out = io.StringIO()
    display = choose(out)
    assert isinstance(display, PlainDisplay)
    display.start()
    display.update(replace(STATE, processes=(ProcessState("broker", "running"),)))
    display.update(STATE)
    display.update(STATE)
    display.update(replace(STATE, step=7, accuracy=(*STATE.accuracy, 0.74), judged=6))
    display.stop()
    assert out.getvalue().splitlines() == [
        "evidence: insecure_simulated (simulated: it proves nothing)",
        "round 5/20: accuracy 70.0 %, 830.0 kB up, 2.8 MB down, 1 refused, 15 s",
        "broker was restarted (1 so far)",
        "round 6/20: accuracy 74.0 %, 830.0 kB up, 2.8 MB down, 1 refused, 15 s",
    ]


def test_the_live_display_draws_and_gives_the_terminal_back() -> None:
    out = io.StringIO()
    display = LiveDisplay(
        out, Console(file=out, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    )
    display.update(STATE)
    assert out.getvalue() == ""
    display.start()
    display.update(STATE)
    display.stop()
    display.stop()
    assert "6 of 20" in out.getvalue()
    assert out.getvalue().rstrip().endswith("\x1b[2K") or "\x1b[?25h" in out.getvalue()


def test_a_sparkline_has_one_block_a_round() -> None:
    assert sparkline([0.0, 0.5, 1.0, 7.0]) == "▁▅██"
    assert len(sparkline([0.5] * 100)) == 40


def test_devices_that_cannot_train_are_told_once() -> None:
    said = "no device could train in round 6; a: x_train has values that are not finite"
    out = io.StringIO()
    display = PlainDisplay(out)
    for _ in range(3):
        display.update(replace(STATE, trouble=said))
    assert out.getvalue().count(said) == 1
    assert "no device could train" in drawn(replace(STATE, trouble=said))
    assert "trouble" not in drawn(STATE)

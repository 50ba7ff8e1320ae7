"""From a port to a link: the speed is found, a console is logged in to, silence is explained."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_runtime.provision.console import BEACON, Console, readable
from edge_runtime.provision.ports import Line
from edge_runtime.provision.problems import Code, Problem
from edge_runtime.provision.screen import Screen
from edge_runtime.provision.talk import Talk

if TYPE_CHECKING:
    from edge_runtime.provision.technician import Plan

_EACH: Final = 1.6  # seconds of asking at each speed
_STARTED: Final = 20.0  # for qflare-provisiond to start on a slow board


@dataclass(frozen=True)
class Connection:
    """An open link."""

    line: Line
    talk: Talk
    baud: int


def connect(plan: "Plan", screen: Screen) -> Connection:
    """Open the port and a link to the board; Problem says what is wrong with it."""
    line = plan.open_line(plan.port, plan.bauds[0])
    try:
        return _connect(plan, line, screen)
    except BaseException:
        line.close()
        raise


def _connect(plan: "Plan", line: Line, screen: Screen) -> Connection:
    """Try every speed, again and again while the board may still be booting."""
    until = time.monotonic() + plan.boot
    heard, echoed, speaks = False, False, False
    while True:
        for baud in plan.bauds:
            screen.busy("port", f"{line.path}, {baud} baud")
            line.set_baud(baud)
            talk = Talk(line, baud, plan.patience)
            if talk.open(_EACH):
                return Connection(line, talk, baud)
            console = Console(line)
            text = talk.link.decoder.text() + console.look().encode()
            if BEACON.encode() in text and talk.open(_STARTED):
                return Connection(line, talk, baud)  # it began to listen after we had asked
            heard = heard or bool(text.strip())
            echoed = echoed or talk.link.echoes > 0
            if console.at_login() or console.at_shell():
                return _by_console(plan, line, console, baud, screen)
            if readable(text):
                speaks = True
                break  # the right speed, but nobody to talk to yet
        if time.monotonic() > until:
            break
    if speaks:
        raise Problem(Code.NO_PROVISIOND, line.path)
    if echoed:
        raise Problem(Code.ECHO, line.path)
    raise Problem(Code.GARBAGE if heard else Code.NO_ANSWER, line.path)


def _by_console(
    plan: "Plan", line: Line, console: Console, baud: int, screen: Screen
) -> Connection:
    if plan.account is None:
        raise Problem(Code.LOGIN, "us, as no user was named")
    screen.busy("login", f"as {plan.account.user}")
    console.log_in(plan.account)
    screen.busy("login", "starting qflare-provisiond")
    console.start_provisiond(plan.account)
    screen.done("login", f"as {plan.account.user}; qflare-provisiond started")
    talk = Talk(line, baud, plan.patience)
    if talk.open(_STARTED):
        return Connection(line, talk, baud)
    raise Problem(Code.NO_PROVISIOND, line.path)

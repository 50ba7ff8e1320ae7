"""A stock console on the line: log in, and start qflare-provisiond there. I/O through a `Line`.

Made for noise: prompts are looked for at the end of what came, commands report through marks that
their own echo doesn't contain, and every wait ends.
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_runtime.provision.ports import Line
from edge_runtime.provision.problems import Code, Problem

BEACON: Final = "waits to be provisioned"  # what a device says of itself on its line
_KEPT: Final = 8192
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9])")
_FRAMES: Final = re.compile(r"#Q[A-Za-z0-9+/=]+\r?\n")
_LOGIN: Final = re.compile(r"login:\s*\Z", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"password[^\n]{0,40}:\s*\Z", re.IGNORECASE)
_SHELL: Final = re.compile(r"[^\n]{0,200}[$#]\s*\Z")
_WRONG: Final = re.compile(r"login incorrect|authentication failure", re.IGNORECASE)
_START: Final = 20.0  # seconds for qflare-provisiond on a slow board, to serve or to say why not
_PATHS: Final = "/opt/qflare/current/bin:/usr/local/bin"


@dataclass(frozen=True, slots=True)
class Account:
    """Who logs in; `password` is asked for only when the console does."""

    user: str
    password: Callable[[], str]


class Console:
    """What came over the line as a person would read it, and what to type next."""

    def __init__(self, line: Line, wait: float = 15.0) -> None:
        self._line, self._wait = line, wait
        self._text = ""

    def look(self, seconds: float = 1.5) -> str:
        """Press Enter; what is there then."""
        self._type("")
        self._read(seconds)
        return self._text

    def at_login(self) -> bool:
        """Does the console ask who we are?"""
        return bool(_LOGIN.search(self._text) or _PASSWORD.search(self._text))

    def at_shell(self) -> bool:
        """Does a shell wait for a command?"""
        return bool(_SHELL.search(self._text))

    def log_in(self, account: Account) -> None:
        """Get to a shell; Problem(LOGIN) if the console doesn't let us."""
        sent_name = sent_password = False
        until = time.monotonic() + 4 * self._wait
        while time.monotonic() < until:
            # Before that, it may be the answer to what we sent to find a device.
            if sent_password and (_WRONG.search(self._text) or _LOGIN.search(self._text)):
                raise Problem(Code.LOGIN, repr(account.user))
            if _LOGIN.search(self._text):
                self._type(account.user)
                sent_name = True
            elif _PASSWORD.search(self._text):
                # A prompt that was there before us is answered with nothing, to get a new one.
                self._type(account.password() if sent_name else "")
                sent_password = sent_name
            elif self.at_shell():
                return
            self._read(self._wait / 5)
        raise Problem(Code.LOGIN, repr(account.user))

    def start_provisiond(self, account: Account) -> None:
        """Start qflare-provisiond on this very line.

        Raises Problem: NOT_INSTALLED, ALREADY, LOGIN where sudo wants another password.
        """
        self._command("stty -echo 2>/dev/null; unset HISTFILE")
        found = self._command(f"PATH=$PATH:{_PATHS}; command -v qflare-provisiond")
        path = next((line for line in found.splitlines() if line.startswith("/")), "")
        if not re.fullmatch(r"/[\w./+-]+", path):
            raise Problem(Code.NOT_INSTALLED)
        root = self._command("id -u").strip() == "0"
        sudo = "" if root else "sudo "
        if sudo:
            self._become_root(account)
        self._command(f"{sudo}systemctl stop qflare-provisiond.service 2>/dev/null")
        mark, half = _mark()
        self._text = ""
        self._type(f"{sudo}{path} --tty - ; printf '\\n{half}%s\\n' {mark[len(half) :]}:$?")
        self._read(_START, stop=lambda text: mark in text or BEACON in text)
        if mark in self._text:
            said = " ".join(self._text.split(mark)[0].split())[-300:]
            code = Code.ALREADY if "already" in said else Code.DEVICE
            raise Problem(code, said.removeprefix("qflare-provisiond: "))

    def _become_root(self, account: Account) -> None:
        """Let sudo remember us on this terminal."""
        mark, half = _mark()
        self._text = ""
        self._type(f"sudo -v ; printf '\\n{half}%s\\n' {mark[len(half) :]}:$?")
        until = time.monotonic() + 4 * self._wait
        answered = False
        while time.monotonic() < until:
            if mark in self._text:
                if f"{mark}:0" in self._text:
                    return
                break
            if _PASSWORD.search(self._text):
                if answered:
                    break
                answered = True
                self._type(account.password())
            self._read(self._wait / 5)
        raise Problem(Code.LOGIN, f"{account.user!r} as root (sudo)")

    def _command(self, command: str) -> str:
        """Run a command; what it printed. Tries twice, as noise may hit either way."""
        for _ in range(2):
            begin, begin_half = _mark()
            end, end_half = _mark()
            self._text = ""
            self._type(
                f"printf '{begin_half}%s\\n' {begin[len(begin_half) :]}; {command}; "
                f"printf '\\n{end_half}%s\\n' {end[len(end_half) :]}"
            )
            self._read(self._wait, stop=lambda text, end=end: end in text)  # type: ignore[misc]
            _, found, rest = self._text.partition(begin)
            if found and end in rest:
                return rest.split(end)[0].strip()
        raise Problem(Code.NO_PROVISIOND, self._line.path)

    def _type(self, text: str) -> None:
        self._text = "" if not text else self._text
        self._line.write(text.encode() + b"\r")
        if text:
            self._text = ""

    def _read(self, seconds: float, stop: Callable[[str], bool] | None = None) -> None:
        """Read until `stop`, or a prompt and then silence, or the time is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            data = self._line.read(0.2)
            if data:
                self._take(data)
            elif stop is None and (self.at_login() or self.at_shell()):
                return
            if stop is not None and stop(self._text):
                return

    def _take(self, data: bytes) -> None:
        text = _FRAMES.sub("", self._text + data.decode("ascii", "replace"))
        self._text = _ESCAPES.sub("", text).replace("\r", "")[-_KEPT:]


def _mark() -> tuple[str, str]:
    """A word that nobody says by chance, and its first half."""
    word = f"qf{secrets.token_hex(6)}"
    return word, word[:7]


def readable(text: bytes) -> bool:
    """Is it what a console prints, and not what a wrong speed makes of it?"""
    if not text.strip():
        return False
    good = sum(32 <= byte < 127 or byte in b"\r\n\t\x1b\x08\x07" for byte in text)
    return good / len(text) > 0.9

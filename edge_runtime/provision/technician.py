"""One board, from a plugged-in cable to an enrolled device. I/O through ports, files and screen.

Run it again after any interruption: the board answers at once what it has done already, the ticket
is the one that was taken for it, and the record goes on.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_runtime.provision import dialogue, label
from edge_runtime.provision.connect import Connection, connect
from edge_runtime.provision.console import Account
from edge_runtime.provision.desk import duration
from edge_runtime.provision.dialogue import Done, Failed, Hello, Step, Trouble
from edge_runtime.provision.jobs import Jobs, Record
from edge_runtime.provision.ports import BAUDS, Line, SerialLine
from edge_runtime.provision.problems import Code, Problem
from edge_runtime.provision.screen import Screen
from edge_runtime.provision.talk import LinkLost, Talk
from edge_runtime.provision.tickets import Taken, Tickets
from qflare.crypto.keys import KemPublicKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import fingerprint_words
from qflare.faults import LocalFault
from qflare.names import Digest

_CODE_OF: Final[Mapping[Trouble, Code]] = {
    Trouble.CLOCK: Code.CLOCK,
    Trouble.NETWORK: Code.NETWORK,
    Trouble.TICKET: Code.BAD_TICKET,
    Trouble.USED: Code.USED_TICKET,
    Trouble.EXPIRED: Code.EXPIRED_TICKET,
    Trouble.WRONG_BOARD: Code.WRONG_BOARD,
    Trouble.REFUSED: Code.REFUSED,
    Trouble.SETTINGS: Code.SETTINGS,
    Trouble.STORAGE: Code.STORAGE,
}
# A board that boots may say so on this very line before it answers.
_GONE: Final = frozenset({Code.PORT_GONE, Code.NO_ANSWER, Code.GARBAGE, Code.NO_PROVISIOND})
_WAITS: Final = frozenset({Trouble.WAITING, Trouble.UNREACHABLE})
_ECHOES: Final = 4
_ECHO_BYTES: Final = 1024
_AGAIN: Final = 20  # links that may be lost before we give up
_REAPPEAR: Final = 60.0  # seconds for an adapter to be plugged in again


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    In seconds: `wait`, what enrolment may take while we look on; `boot`, how long a board that
    doesn't answer may still be booting; `patience`, how long one that did may be silent.
    """

    port: str
    tickets: Tickets | None
    bauds: tuple[int, ...] = BAUDS
    board: str | None = None
    network: dialogue.Network | None = None
    settings: str | None = None
    training: bool = True
    wait: int = 60
    boot: float = 20.0
    labels: Path | None = None
    account: Account | None = None
    patience: float = 15.0
    open_line: Callable[[str, int], Line] = SerialLine
    clock: Callable[[], float] = time.time


class Technician:
    """Does the job; `record` is what came of it, whatever happens."""

    def __init__(self, plan: Plan, jobs: Jobs, screen: Screen) -> None:
        self._plan, self._jobs, self._screen = plan, jobs, screen
        self._path: Path | None = None
        self.record = Record()
        self._lost = 0
        self._taken: Taken | None = None

    def run(self) -> Record:
        """Provision the board. Raises Problem, after noting it in the record, and LocalFault."""
        try:
            self._until_done()
        except LocalFault as fault:
            code = fault.code if isinstance(fault, Problem) else Code.DEVICE
            self._note(result="failed", problem=str(fault), code=str(code))
            raise
        finally:
            self._screen.close()
        return self.record

    def _until_done(self) -> None:
        while True:
            try:
                connection = connect(self._plan, self._screen)
                try:
                    self._over(connection)
                    return
                finally:
                    connection.line.close()
            except LinkLost as lost:
                self._again(lost.restarted)
            except Problem as problem:
                # Before there was a link, it's the technician's to mend; afterwards it may come
                # back by itself.
                gone = problem.code in _GONE
                if self._path is None and problem.code is Code.NO_ANSWER:
                    self._perhaps_done()
                if not gone or self._path is None:
                    raise
                self._again(restarted=False)

    def _perhaps_done(self) -> None:
        """A board that has finished listens no more: say so instead of suspecting the cable."""
        left = self._jobs.interrupted(self._plan.port)
        if left is not None:
            words = f"{self._plan.port} any more. The board {left.serial}"
            raise Problem(Code.MAYBE_DONE, words) from None

    def _again(self, restarted: bool) -> None:
        self._lost += 1
        if self._lost > _AGAIN:
            raise Problem(Code.LINK_LOST)
        what = "the board was restarted" if restarted else "the line is cut; check the cable"
        self._screen.note(f"{what}: beginning again where it was")
        until = time.monotonic() + _REAPPEAR
        while not Path(self._plan.port).exists():
            if time.monotonic() > until:
                raise Problem(Code.PORT_GONE, self._plan.port)
            time.sleep(0.5)

    def _over(self, connection: Connection) -> None:
        talk = connection.talk
        hello, raw = talk.hello()
        self._meet(hello, connection)
        talk.begin(hello, raw)
        self._steps(talk, hello)
        talk.drain()

    def _meet(self, hello: Hello, connection: Connection) -> None:
        """Look at who answered, before anything is given away; raise Problem for a wrong one."""
        if self._path is None or self.record.serial != hello.serial:
            self._path, self.record = self._jobs.begin(hello.serial)
        words = " ".join(fingerprint_words(KemPublicKey.parse(DEFAULT, hello.key).fingerprint))
        known = self.record.compared and self.record.key_words == words
        self._note(
            port=connection.line.path,
            board=hello.board,
            model=hello.model,
            software=hello.version,
            key_words=words,
            compared=known,
        )
        board = hello.board or "unknown to us"
        self._screen.done("port", f"{connection.line.path}, {connection.baud} baud")
        self._screen.done("board", f"{hello.model} ({board}), serial {hello.serial}")
        if hello.bits != 64:
            raise Problem(Code.WRONG_BITS, f"{hello.machine}, {hello.bits} bits")
        if self._plan.board is not None and hello.board != self._plan.board:
            raise Problem(Code.WRONG_BOARD, f"{self._plan.board} was asked for, this is {board}")
        off = hello.clock - self._plan.clock()
        if abs(off) > 86_400:
            self._screen.note(f"the board's clock is off by {duration(off)}; it will be set")
        if not known:
            self._screen.done("key", words)
            if not self._screen.ask("does the board show these words?"):
                raise Problem(Code.WRONG_WORDS)
            self._note(compared=True)

    def _steps(self, talk: Talk, hello: Hello) -> None:
        plan = self._plan
        self._take_ticket(hello)
        if plan.network is not None:
            self._step(talk, Step.NETWORK, plan.network)
        self._step(talk, Step.CLOCK, dialogue.Clock(plan.clock()))
        if self._taken is not None and not hello.name:
            ticket = self._taken
            request = dialogue.GiveTicket(ticket.ticket.to_bytes(), ticket.owner_key)
            self._step(talk, Step.TICKET, request)
        if plan.settings is not None:
            self._step(talk, Step.SETTINGS, dialogue.Settings(plan.settings))
        waits = self._enrol(talk)
        self._test(talk)
        done = self._step(talk, Step.FINISH, dialogue.Finish())
        if warning := dict(done.facts).get("warning"):
            self._screen.note(warning)
        self._note(result="waiting" if waits else "done")
        if plan.labels is not None and self.record.name:
            paths = label.save(self.record, plan.labels)
            self._screen.done("label", str(paths[-1]))

    def _take_ticket(self, hello: Hello) -> None:
        """Before anything is changed on the board: the ticket tells a wrong clock of this laptop.

        None is needed by a board that is enrolled, or that has one of an earlier time.
        """
        if hello.name or self._taken is not None:
            return
        if self._plan.tickets is not None:
            self._taken = self._plan.tickets.take(hello.board, hello.serial, self._plan.clock())
            self._note(ticket=self._taken.path.name, token=self._taken.token)
        elif Step.TICKET not in hello.done:
            raise Problem(Code.NO_TICKET, "--ticket (a file, or a folder of them)")

    def _enrol(self, talk: Talk) -> bool:
        """Whether the board still waits: for a network, or for the operator."""
        self._screen.busy("enrol", "the board makes its keys")
        answer = self._ask(talk, Step.ENROL, dialogue.Enrol(self._plan.wait))
        if isinstance(answer, Failed) and answer.trouble in _WAITS:
            why = "no network yet" if answer.trouble is Trouble.UNREACHABLE else "not yet approved"
            self._screen.done("enrol", f"{why}: the board will enrol by itself ({answer.text})")
            self._set_step(Step.ENROL, f"{why}; {answer.text}")
            return True
        if isinstance(answer, Failed):
            if answer.trouble is Trouble.USED and self._taken and self._plan.tickets:
                self._plan.tickets.spoil(self._taken.path)
                self._taken = None
            self._screen.done("enrol", answer.text, good=False)
            raise _problem(answer)
        facts = dict(answer.facts)
        fingerprint = Digest.parse(facts["fingerprint"])
        words = " ".join(fingerprint_words(fingerprint))
        self._note(name=facts["name"], fingerprint=str(fingerprint), words=words)
        self._set_step(Step.ENROL, answer.text)
        self._screen.done("enrol", answer.text)
        self._screen.done("device", words)
        return False

    def _test(self, talk: Talk) -> None:
        self._screen.busy("test", "processor, memory, storage, clock")
        answer = self._ask(talk, Step.TEST, dialogue.Test(self._plan.training))
        if isinstance(answer, Failed):
            raise _problem(answer)
        findings = dict(answer.facts) | {"line": self._line_test(talk)}
        for name, text in findings.items():
            mark, _, words = text.partition(": ")
            self._screen.done(name, words, good=mark == "ok")
        self._note(test=findings)
        self._set_step(Step.TEST, answer.text)

    def _line_test(self, talk: Talk) -> str:
        """Send patterns forth and back; how the line did, in words."""
        again, begun = talk.link.again, time.monotonic()
        for _ in range(_ECHOES):
            pattern = secrets.token_bytes(_ECHO_BYTES)
            answer = talk.ask(dialogue.Echo(pattern), self._ignore)
            if not isinstance(answer, dialogue.Echoed) or answer.pattern != pattern:
                return "bad: the echo differs from what was sent"
        seconds = max(time.monotonic() - begun, 1e-3)
        rate = 2 * _ECHOES * _ECHO_BYTES / seconds / 1000
        repeated = talk.link.again - again
        words = f"{rate:.1f} kB/s both ways, {repeated} pieces sent again"
        return f"{'ok' if repeated <= 4 else 'bad'}: {words}"

    def _step(self, talk: Talk, step: Step, request: dialogue.Request) -> Done:
        answer = self._ask(talk, step, request)
        if isinstance(answer, Failed):
            self._screen.done(step, answer.text, good=False)
            raise _problem(answer)
        self._screen.done(step, answer.text, good="warning" not in dict(answer.facts))
        self._set_step(step, answer.text)
        return answer

    def _ask(self, talk: Talk, step: Step, request: dialogue.Request) -> Done | Failed:
        answer = talk.ask(request, lambda words: self._screen.busy(step, words))
        if isinstance(answer, dialogue.Echoed):
            raise Problem(Code.DEVICE, "it answered what wasn't asked")
        return answer

    def _set_step(self, step: Step, text: str) -> None:
        self._note(steps={**self.record.steps, str(step): text})

    def _note(self, **changes: Any) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)
        if self._path is not None:
            self.record = self._jobs.save(self._path, self.record)

    def _ignore(self, words: str) -> None:
        """An echo makes no progress."""


def _problem(failed: Failed) -> Problem:
    return Problem(_CODE_OF.get(failed.trouble, Code.DEVICE), failed.text)

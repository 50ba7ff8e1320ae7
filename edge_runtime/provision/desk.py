"""Carries out what the laptop asks, each request once, whoever asks how often.

A request that was carried out before, word for word, is answered without doing it again. What a
step did is on the disk before the answer goes out.
"""

import asyncio
from typing import Final

from edge_runtime.provision import dialogue, facts, hardware_test, network, settings
from edge_runtime.provision.dialogue import Done, Echoed, Failed, Hello, Request, Step, Trouble
from edge_runtime.provision.enrolling import EnrolFunction, Enroller, Say
from edge_runtime.provision.memory import Memory
from edge_runtime.provision.system import System
from qflare import __version__
from qflare.enrolment import clean_serial, parse_ticket, peek_terms
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host import boards
from qflare.host.files import write_atomic
from qflare.names import Digest

CLOCK_OFF: Final = 60.0  # seconds; less is left to the network's time service

_STEP_OF: Final[dict[type[Request], Step]] = {
    dialogue.Network: Step.NETWORK,
    dialogue.Clock: Step.CLOCK,
    dialogue.GiveTicket: Step.TICKET,
    dialogue.Settings: Step.SETTINGS,
    dialogue.Enrol: Step.ENROL,
    dialogue.Test: Step.TEST,
    dialogue.Finish: Step.FINISH,
}
_EVERY_TIME: Final = (dialogue.Clock, dialogue.Enrol, dialogue.Test)


class Desk:
    """One device's side of provisioning."""

    def __init__(self, system: System, memory: Memory, enrol: EnrolFunction) -> None:
        self._system, self._memory = system, memory
        board = boards.detect(system.root)
        self.board = board.name if board else ""
        self.facts = facts.look(system.root, system.state)
        self.serial = clean_serial(self.facts.serial)
        self.enroller = Enroller(system, memory, enrol, self.board, self.serial)

    @property
    def finished(self) -> bool:
        """Did the technician say that all is done?"""
        return Step.FINISH in self._memory.steps()

    @property
    def enrolled(self) -> bool:
        return bool(self._memory.state.name)

    @property
    def closed(self) -> bool:
        """Is all done that this program is for? It isn't started again then."""
        return (self._system.config / settings.MARKER).exists()

    def hello(self, session: bytes) -> Hello:
        """Who this device is and what is done to it already; `session`: 16 fresh bytes."""
        state = self._memory.state
        return Hello(
            protocol=dialogue.PROTOCOL,
            version=__version__,
            session=session,
            key=self._memory.key.public.raw,
            board=self.board,
            model=self.facts.model,
            serial=self.serial,
            machine=self.facts.machine,
            bits=self.facts.bits,
            clock=max(self._system.clock(), 0.0),
            memory=self.facts.memory,
            disk=self.facts.disk,
            done=self._memory.steps(),
            name=state.name,
            fingerprint=bytes.fromhex(state.fingerprint),
        )

    async def handle(self, request: Request, say: Say) -> Done | Failed | Echoed:
        """Carry out a request; what goes wrong is an answer, too."""
        if isinstance(request, dialogue.Echo):
            return Echoed(request.pattern)
        step = _STEP_OF[type(request)]
        digest = str(Digest.of(request.to_bytes()))
        if self._memory.done(step, digest) and not isinstance(request, _EVERY_TIME):
            return Done("as before", ())
        try:
            answer = await self._carry_out(request, say)
            if isinstance(answer, Done):
                self._memory.remember(step, digest)
        except OSError as error:
            return Failed(Trouble.STORAGE, f"{error.strerror or error}: {error.filename or ''}")
        except LocalFault as fault:
            return Failed(Trouble.INTERNAL, str(fault)[: dialogue.TEXT_MAX])
        return answer

    async def _carry_out(self, request: Request, say: Say) -> Done | Failed | Echoed:
        match request:
            case dialogue.Network():
                return await asyncio.to_thread(self._network, request)
            case dialogue.Clock():
                return self._clock(request)
            case dialogue.GiveTicket():
                return self._ticket(request)
            case dialogue.Settings():
                return self._settings(request)
            case dialogue.Enrol():
                return await self._enrol(request, say)
            case dialogue.Test():
                return await self._test(request, say)
            case dialogue.Finish():
                return await self._finish()
            case dialogue.Echo():
                return Echoed(request.pattern)

    def carry_out_now(
        self, request: dialogue.Network | dialogue.Settings | dialogue.GiveTicket
    ) -> None:
        """The same for what was found on the card; LocalFault if it isn't done.

        A board without a clock lives in the past before it has a network. When the ticket was made
        is the least that it can be now; the coordinator judges its end.
        """
        digest = str(Digest.of(request.to_bytes()))
        match request:
            case dialogue.Network():
                step, answer = Step.NETWORK, self._network(request)
            case dialogue.Settings():
                step, answer = Step.SETTINGS, self._settings(request)
            case dialogue.GiveTicket():
                made = peek_terms(request.ticket).issued_at
                step, answer = Step.TICKET, self._ticket(request, at_least=made)
        if isinstance(answer, Failed):
            raise LocalFault(f"{step}: {answer.text}")
        self._memory.remember(step, digest)

    async def close_alone(self) -> None:
        """Enrolled when no technician was there any more: start the daemon, and remember it."""
        answer = await self._finish()
        if isinstance(answer, Done):
            self._memory.remember(Step.FINISH, "alone")

    def _network(self, request: dialogue.Network) -> Done | Failed:
        try:
            path, writer = network.store(request, self._system.root)
        except PeerFault as fault:
            return Failed(Trouble.NETWORK, fault.detail)
        except LookupError as error:
            return Failed(Trouble.NETWORK, str(error.args[0]))
        where = f"for {writer.name}"
        if not request.apply:
            return Done(f"written {where}; counts from the next start", (("file", str(path)),))
        wrong = network.activate(writer, self._system.run)
        if wrong is not None:
            words = f"written {where}, but not up yet: {wrong}"
            return Done(words[:400], (("file", str(path)), ("warning", wrong[:400])))
        return Done(f"up, {where}", (("file", str(path)),))

    def _clock(self, request: dialogue.Clock) -> Done | Failed:
        off = request.time - self._system.clock()
        if abs(off) <= CLOCK_OFF:
            return Done(f"right within {CLOCK_OFF:.0f} s", (("off", f"{off:.0f}"),))
        try:
            self._system.set_clock(request.time)
        except OSError as error:
            return Failed(Trouble.CLOCK, f"it is off by {duration(off)}, and: {error.strerror}")
        return Done(f"was off by {duration(off)}, set", (("off", f"{off:.0f}"),))

    def _ticket(self, request: dialogue.GiveTicket, at_least: float = 0.0) -> Done | Failed:
        if self.enrolled:
            return Done(f"not needed: this is {self._memory.state.name} already", ())
        now = max(self._system.clock(), at_least)
        try:
            ticket = parse_ticket(request.ticket, request.owner_key, now)
        except PeerFault as fault:
            expired = fault.reason is Reason.EXPIRED_TICKET
            return Failed(Trouble.EXPIRED if expired else Trouble.TICKET, str(fault))
        if wrong := self.misfit(ticket.board, ticket.serial):
            return Failed(Trouble.WRONG_BOARD, wrong)
        self._memory.put_ticket(request.ticket, request.owner_key)
        return Done(f"for fleet {ticket.fleet}", (("fleet", ticket.fleet),))

    def misfit(self, board: str, serial: str) -> str:
        """Why a ticket bound to this board and serial number isn't ours; empty if it is."""
        if board and board != self.board:
            return f"the ticket is for a {board}, this is a {self.board or self.facts.model}"
        if serial and serial != self.serial:
            return f"the ticket is for the board {serial}, this one is {self.serial}"
        return ""

    def _settings(self, request: dialogue.Settings) -> Done | Failed:
        try:
            sections = settings.verify(request.toml)
        except PeerFault as fault:
            return Failed(Trouble.SETTINGS, fault.detail)
        self._memory.put_settings(request.toml)
        if self.enrolled and (wrong := self._rewrite(request.toml)):
            return Failed(Trouble.SETTINGS, wrong)
        return Done(", ".join(f"[{name}]" for name in sections) or "defaults", ())

    def _rewrite(self, toml: str) -> str:
        """The device is enrolled already: put new settings in the place of the old ones."""
        path = self._system.config / settings.FILE
        try:
            settings.replace(path, toml)
        except LocalFault as fault:
            return str(fault)
        return ""

    async def _enrol(self, request: dialogue.Enrol, say: Say) -> Done | Failed:
        if not self.enrolled and self._memory.ticket() is None:
            return Failed(Trouble.ORDER, "there is no ticket yet")
        answer = await self.enroller.wait(request.seconds, say)
        if isinstance(answer, Failed) and answer.trouble in (Trouble.USED, Trouble.EXPIRED):
            self._memory.forget(Step.TICKET)  # the next one is another
        return answer

    async def _test(self, request: dialogue.Test, say: Say) -> Done | Failed:
        loop = asyncio.get_running_loop()

        def from_thread(words: str) -> None:
            loop.call_soon_threadsafe(say, words)

        root, state = self._system.root, self._system.state
        findings = await asyncio.to_thread(
            hardware_test.run, root, state, request.training, from_thread
        )
        results = tuple((f.name, ("ok: " if f.good else "bad: ") + f.text[:400]) for f in findings)
        bad = [f for f in findings if not f.good]
        words = ", ".join(f.name for f in bad) + " failed" if bad else "all well"
        return Done(words, results)

    async def _finish(self) -> Done | Failed:
        if not self.enrolled and self._memory.ticket() is None:
            return Failed(Trouble.ORDER, "neither enrolled nor a ticket to enrol with")
        if not self.enrolled:
            self.enroller.start()
            wrong = await asyncio.to_thread(self._system.go_on_in_background)
            words = "will enrol by itself"
            return Done(f"{words}, but: {wrong}" if wrong else words, (("name", ""),))
        wrong = await asyncio.to_thread(self._system.start_daemon)
        mark = self._system.config / settings.MARKER
        write_atomic(mark, f"{self._memory.state.name}\n".encode(), 0o644)
        note = (("warning", wrong[:400]),) if wrong else ()
        return Done("the daemon is on", (("name", self._memory.state.name), *note))


def duration(seconds: float) -> str:
    """A span in the largest unit that says enough."""
    size = abs(seconds)
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if size >= 2 * length:
            return f"{size / length:.0f} {unit}"
    return f"{size:.0f} seconds"

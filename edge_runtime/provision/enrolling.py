"""The device enrols: at once, or by itself as soon as there is a network.

One task for as long as there is a ticket and no certificate, whoever waits for it. `enrol` may be
called again and again; it gives the same device.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from edge_runtime.enrol import Enrolled, EnrolmentRefused, NoAnswer
from edge_runtime.enrol_exchange import REMEDIES
from edge_runtime.provision.dialogue import TEXT_MAX, Done, Failed, Trouble
from edge_runtime.provision.memory import Memory
from edge_runtime.provision.settings import write_edge_toml
from edge_runtime.provision.system import System
from qflare.enrolment import Refusal
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.logs import get_logger

log = get_logger(__name__)

_PAUSE: Final = 5.0  # seconds after the first failure, doubled for each further one
_PAUSE_MAX: Final = 300.0


EnrolFunction = Callable[[bytes, Path, str, str, Callable[[str], None]], Awaitable[Enrolled]]
Say = Callable[[str], None]

FINAL: Final = frozenset(
    {Trouble.USED, Trouble.EXPIRED, Trouble.WRONG_BOARD, Trouble.TICKET, Trouble.REFUSED}
)
_OF_REFUSAL: Final = {
    Refusal.USED: Trouble.USED,
    Refusal.EXPIRED: Trouble.EXPIRED,
    Refusal.WRONG_BOARD: Trouble.WRONG_BOARD,
    Refusal.WRONG_SERIAL: Trouble.WRONG_BOARD,
}


class Enroller:
    """Enrols this device in the background."""

    def __init__(
        self, system: System, memory: Memory, enrol: EnrolFunction, board: str, serial: str
    ) -> None:
        self._system, self._memory, self._enrol = system, memory, enrol
        self._board, self._serial = board, serial
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._says = ""
        self._outcome: Failed | None = None

    def start(self) -> None:
        """Begin, if there is a ticket and nobody is at it."""
        idle = self._task is None or self._task.done()
        if idle and not self._memory.state.name and self._memory.ticket() is not None:
            self._outcome = None
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Leave it where it stands."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def wait(self, seconds: float, say: Say) -> Done | Failed:
        """How it ends, or how it stands after `seconds`."""
        self.start()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        said = ""
        while not self._memory.state.name:
            if self._says != said:
                said = self._says
                say(said)
            if self._task is not None and self._task.done() and self._outcome is None:
                if not self._memory.state.name:  # a fault of ours; the next start tries again
                    error = self._task.exception()
                    return Failed(Trouble.INTERNAL, f"{type(error).__name__}: {error}"[:500])
                break
            outcome, left = self._outcome, until - loop.time()
            if outcome is not None and (outcome.trouble in FINAL or left <= 0):
                return outcome
            if left <= 0:
                waits = self._says == REMEDIES[Refusal.AWAITING]
                trouble = Trouble.WAITING if waits else Trouble.UNREACHABLE
                return Failed(trouble, said or "no answer yet")
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), min(left, 1.0))
            except TimeoutError:
                continue
        return self.result()

    def result(self) -> Done:
        """Who the device is."""
        state = self._memory.state
        facts = (("name", state.name), ("fingerprint", state.fingerprint))
        return Done(f"enrolled as {state.name}", facts)

    async def _run(self) -> None:
        pause = _PAUSE
        while (kept := self._memory.ticket()) is not None:
            ticket, _ = kept
            self._report("asking the coordinator")
            try:
                enrolled = await self._enrol(
                    ticket, self._system.config, self._board, self._serial, self._report
                )
                write_edge_toml(self._system, enrolled, self._memory.settings())
            except (LocalFault, PeerFault, OSError) as error:
                self._outcome = failure(error)
                self._memory.trying(self._outcome.text)
                log.warning("enrolment", trouble=self._outcome.trouble, why=self._outcome.text)
            else:
                self._memory.enrolled(str(enrolled.name), str(enrolled.fingerprint))
                self._memory.drop_ticket()
                log.info("enrolled", device=enrolled.name, fingerprint=enrolled.fingerprint)
            self._changed.set()
            if self._memory.state.name or (self._outcome and self._outcome.trouble in FINAL):
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_MAX)

    def _report(self, words: str) -> None:
        self._says = words
        self._changed.set()


def failure(error: Exception) -> Failed:
    """What an exception of enrolment means to the technician."""
    text = str(error)[:TEXT_MAX]
    match error:
        case EnrolmentRefused():
            return Failed(_OF_REFUSAL.get(error.reason, Trouble.REFUSED), text)
        case PeerFault(reason=Reason.EXPIRED_TICKET):
            return Failed(Trouble.EXPIRED, text)
        case PeerFault():
            return Failed(Trouble.TICKET, text)
        case NoAnswer() if REMEDIES[Refusal.AWAITING] in text or "approved" in text:
            return Failed(Trouble.WAITING, text)
        case NoAnswer():
            return Failed(Trouble.UNREACHABLE, text)
        case LocalFault():
            return Failed(Trouble.INTERNAL, text)
    return Failed(Trouble.STORAGE, text)

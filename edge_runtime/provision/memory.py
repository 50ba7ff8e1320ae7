"""What the device remembers of its provisioning, so that it can be interrupted anywhere.

One JSON file, replaced atomically before a step is said to be done; the ticket and the key that
sessions are sealed to in files of their own, mode 0600.
"""

from pathlib import Path
from typing import Final

import msgspec

from edge_runtime.provision.dialogue import SETTINGS_MAX, TICKET_MAX, Step
from qflare.crypto.keys import KemPrivateKey
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault
from qflare.host.files import ensure_private_dir, read_bounded, sync_dir, take_lock, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode

_STATE_MAX: Final = 64 * 1024
_OWNER_MAX: Final = 4 * 1024


class State(Typed):
    """`steps`: digest of the request that was carried out, by step."""

    version: int = 1
    steps: dict[str, str] = msgspec.field(default_factory=dict)
    name: str = ""
    fingerprint: str = ""
    enrolling: str = ""  # how the last try to enrol ended, in words


class Memory:
    """The provisioning's own directory. Raises LocalFault if somebody else works in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = ensure_private_dir(directory)
        busy = f"{directory}: qflare-provisiond is running already; stop it, or use its terminal"
        self._lock = take_lock(directory / "lock", busy)
        self.state = self._load()
        self.key = self._own_key()

    def done(self, step: Step, digest: str) -> bool:
        """Was this very request carried out?"""
        return self.state.steps.get(step) == digest

    def steps(self) -> tuple[Step, ...]:
        """What is done, in order."""
        return tuple(step for step in Step if step in self.state.steps)

    def remember(self, step: Step, digest: str) -> None:
        """Durably note that a step is done."""
        self._save(steps={**self.state.steps, str(step): digest})

    def forget(self, *steps: Step) -> None:
        """Durably note that these must be done again."""
        left = {key: value for key, value in self.state.steps.items() if key not in steps}
        if left != self.state.steps:
            self._save(steps=left)

    def enrolled(self, name: str, fingerprint: str) -> None:
        """Durably note who the device is now."""
        self._save(name=name, fingerprint=fingerprint, enrolling="")

    def trying(self, words: str) -> None:
        """Note how enrolment stands, for whoever looks."""
        if words != self.state.enrolling:
            self._save(enrolling=words)

    def put_ticket(self, ticket: bytes, owner_key: bytes) -> None:
        """Keep the ticket until the device is enrolled."""
        write_atomic(self.directory / "owner.pub", owner_key)
        write_atomic(self.directory / "ticket", ticket)

    def ticket(self) -> tuple[bytes, bytes] | None:
        """The ticket and the owner's key, if there is one."""
        try:
            ticket = read_bounded(self.directory / "ticket", TICKET_MAX)
            return ticket, read_bounded(self.directory / "owner.pub", _OWNER_MAX)
        except FileNotFoundError:
            return None

    def drop_ticket(self) -> None:
        """It is used: away with its secret."""
        (self.directory / "ticket").unlink(missing_ok=True)
        sync_dir(self.directory)

    def put_settings(self, toml: str) -> None:
        """Keep the technician's sections of edge.toml until its other sections are known."""
        write_atomic(self.directory / "settings.toml", toml.encode())

    def settings(self) -> str:
        """The technician's sections; empty if there are none."""
        try:
            return read_bounded(self.directory / "settings.toml", SETTINGS_MAX).decode()
        except FileNotFoundError:
            return ""

    def start_over(self) -> None:
        """Forget everything but that we are here: `--again`."""
        for name in ("ticket", "owner.pub", "settings.toml", "key"):
            (self.directory / name).unlink(missing_ok=True)
        self.state = State()
        write_atomic(self.directory / "state.json", encode(self.state))
        self.key = self._own_key()

    def _save(self, **changes: object) -> None:
        state = msgspec.structs.replace(self.state, **changes)
        write_atomic(self.directory / "state.json", encode(state))
        self.state = state

    def _load(self) -> State:
        path = self.directory / "state.json"
        try:
            return decode(State, read_bounded(path, _STATE_MAX))
        except FileNotFoundError:
            return State()
        except (Unfit, LocalFault):
            # Every step can be done again, so nothing is lost but the memory that it was done.
            path.replace(path.with_suffix(".damaged"))
            return State()

    def _own_key(self) -> KemPrivateKey:
        """The key that sessions are sealed to: one a device, so that its words stay the same."""
        path = self.directory / "key"
        try:
            return KemPrivateKey.from_seed(DEFAULT, read_bounded(path, 1024))
        except FileNotFoundError:
            pass
        except LocalFault:
            path.replace(path.with_suffix(".damaged"))
        key = KemPrivateKey.generate(DEFAULT)
        write_atomic(path, key.to_seed())
        return key

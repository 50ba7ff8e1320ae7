"""The broker's accounts, kept by whoever enrols devices: its own file, and a word to read it again.

mosquitto reads its password file anew on SIGHUP, and so does nats-server; either keeps the
connections whose accounts are still there, and ends the others. That is why the accounts are a file
and not the dynamic security plug-in: every mosquitto from 2.0 on has it, what each device may do
stays in the one access file with `%u` (which that plug-in of 2.0 doesn't know), and the whole state
is written again from the database at every start, so that nothing can be half done.
"""

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.broker import mosquitto, nats
from qflare.host.broker.types import Account, BrokerKind
from qflare.host.files import read_bounded, write_atomic
from qflare.names import DeviceId, FleetId
from qflare.topics import rules

FILE_MAX = 256 * 1024 * 1024  # bytes; a NATS user has about 800, a mosquitto one 170
FILE_MODE = 0o640  # the broker's group reads it: put it into a directory that is setgid to that
RELOAD_WITHIN_S = 20.0
_PROGRAMS = {BrokerKind.MOSQUITTO: "mosquitto", BrokerKind.NATS: "nats-server"}


class BrokerAccounts:
    """The accounts in a broker's files that are ours; what others wrote there stays."""

    def __init__(
        self,
        kind: BrokerKind,
        fleet: FleetId,
        device_file: Path,
        token_file: Path,
        reload: Callable[[], None],
    ) -> None:
        self._kind, self._fleet = kind, fleet
        self._devices, self._tokens = device_file, token_file
        self._reload = reload
        self._owed = True  # whether the broker has read the files is not known at a start

    def sync(
        self, devices: Sequence[Account], tokens: Sequence[Account], former: Collection[str]
    ) -> bool:
        """Make the files hold exactly these accounts of ours, and tell the broker of a change.

        `former` are names that were ours once: their entries go. Returns whether anything changed;
        raises LocalFault when a file can't be written or the broker can't be told, and the next
        call tries again.
        """
        changed = False
        for path, content in self._contents(devices, tokens, frozenset(former)).items():
            if content != _read(path):
                self._owed = changed = True
                try:
                    write_atomic(path, content, FILE_MODE)
                except OSError as error:
                    raise LocalFault(
                        f"{path}: {error.strerror}; the coordinator writes the broker's accounts "
                        "there and needs leave to"
                    ) from None
        if self._owed:
            self._reload()
            self._owed = False
        return changed

    def _contents(
        self, devices: Sequence[Account], tokens: Sequence[Account], former: frozenset[str]
    ) -> dict[Path, bytes]:
        if self._kind is BrokerKind.NATS:
            found = _read(self._devices)
            return {self._devices: _nats(found, self._fleet, devices, tokens, former)}
        return {
            self._devices: _mosquitto(_read(self._devices), devices, former),
            self._tokens: _mosquitto(_read(self._tokens), tokens, former),
        }


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, FILE_MAX)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}; check its owner and mode") from None


def _mosquitto(found: bytes, accounts: Sequence[Account], former: frozenset[str]) -> bytes:
    ours = former | {account.user for account in accounts}
    kept, known = [], {}
    for line in found.decode(errors="surrogateescape").splitlines():
        user, _, rest = line.partition(":")
        if user in ours:
            known[user] = rest
        elif line:
            kept.append(line)
    lines = [
        f"{account.user}:{_hashed(account, known.get(account.user, ''))}" for account in accounts
    ]
    text = "".join(f"{line}\n" for line in [*kept, *lines])
    return text.encode(errors="surrogateescape")


def _hashed(account: Account, known: str) -> str:
    """The account's line, always the same; the old one if its salt says that it is of this very
    password, as hashing 10,000 of them takes a second. Passwords are 256 random bits.
    """
    mark = f"qflare account\0{account.user}\0{account.password}".encode()
    salt = hashlib.sha256(mark).digest()[:12]
    if known.startswith(mosquitto.hash_prefix(salt)):
        return known
    return mosquitto.hash_password(account.password, salt)


def _nats(
    found: bytes,
    fleet: FleetId,
    devices: Sequence[Account],
    tokens: Sequence[Account],
    former: frozenset[str],
) -> bytes:
    ours = former | {account.user for account in (*devices, *tokens)}
    table = rules(fleet)
    users = [entry for entry in _nats_users(found) if entry.get("user") not in ours]
    users += [
        nats.user(a.user, a.password, table.device.for_device(DeviceId.parse(a.user)))
        for a in devices
    ]
    users += [nats.user(a.user, a.password, table.for_token(a.user)) for a in tokens]
    return nats.users_file(users).encode()


def _nats_users(found: bytes) -> list[dict[str, object]]:
    if not found:
        return []
    try:
        users = json.loads(found.decode().removeprefix(nats.USERS))
        if isinstance(users, list) and all(isinstance(entry, dict) for entry in users):
            return users
    except ValueError:
        pass
    raise LocalFault(
        f"the accounts' file isn't one of ours: want `{nats.USERS}[…]` in JSON; see "
        "docs/enrolment.md for how to begin one"
    )


def reload_by(
    kind: BrokerKind, command: Sequence[str], pid_file: Path | None
) -> Callable[[], None]:
    """How to tell the broker: run `command`, else SIGHUP to the process that `pid_file` names.

    With neither, something else has to notice (a systemd path unit, say). What is returned raises
    LocalFault when it fails.
    """

    def run() -> None:
        try:
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=RELOAD_WITHIN_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LocalFault(f"{command[0]}: {error}; correct enrolment.reload") from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-200:]
            raise LocalFault(f"{' '.join(command)} failed ({done.returncode}): {said}")

    def hang_up() -> None:
        if pid_file is None:
            return
        pid = 0
        with suppress(FileNotFoundError, ValueError):
            pid = int(read_bounded(pid_file, 64))
        if pid <= 1:
            return  # it isn't running, and reads the files when it starts
        name = ""
        with suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        if name != _PROGRAMS[kind]:
            return  # the number is somebody else's by now
        try:
            os.kill(pid, signal.SIGHUP)
        except ProcessLookupError:
            return
        except PermissionError:
            raise LocalFault(
                f"no leave to signal the broker (process {pid}); set enrolment.reload to a command "
                "that may"
            ) from None

    return run if command else hang_up

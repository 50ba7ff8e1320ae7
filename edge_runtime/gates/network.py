"""The way out to the Internet, and whether its traffic is charged."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from edge_runtime.gates.files import Unreadable, text, word
from edge_runtime.gates.readings import Network, Seen
from edge_runtime.gates.settings import NetworkGate

ASK_EVERY_S = 60.0
ASK_AGAIN_S = 600.0  # after a failure
_ROUTES_CEILING = 64 * 1024
_UP = 0x1  # RTF_UP
_REJECT = 0x200  # RTF_REJECT: the kernel's own "no route" entry
_CHARGED = (1, 3)  # NMMetered: yes, and guessed to be


class NetworkSensor:
    """By the owner's lists, then by what the interface is, then by what NetworkManager knows.

    `ask` gives NetworkManager's `Metered` property (None: there is no NetworkManager); it is asked
    at most once a minute, and at once when the interface has changed.
    """

    def __init__(
        self, root: Path, settings: NetworkGate, ask: Callable[[Path], int | None]
    ) -> None:
        self._root, self._settings, self._ask = root, settings, ask
        self._asked: tuple[str, float] | None = None
        self._answer: Seen[int] = Seen()

    def read(self, now: float, kbit: float | None) -> Seen[Network]:
        """The interface of the default route; no value without one."""
        try:
            interface = default_interface(self._root)
        except Unreadable as fault:
            return Seen(trouble=str(fault))
        if interface is None:
            return Seen()
        if any(fnmatchcase(interface, p) for p in self._settings.unmetered_interfaces):
            return Seen(Network(interface, None, kbit))
        if any(fnmatchcase(interface, p) for p in self._settings.metered_interfaces):
            return Seen(Network(interface, "gates.network.metered_interfaces", kbit))
        if self._is_modem(interface):
            return Seen(Network(interface, "a modem", kbit))
        answer = self._manager(interface, now)
        metered = "NetworkManager says so" if answer.value in _CHARGED else None
        return Seen(Network(interface, metered, kbit), answer.trouble)

    def _is_modem(self, interface: str) -> bool:
        try:
            says = text(self._root / "sys/class/net" / interface / "uevent") or ""
        except Unreadable:
            return False
        return "DEVTYPE=wwan" in says.splitlines()

    def _manager(self, interface: str, now: float) -> Seen[int]:
        if self._asked is not None and self._asked[0] == interface:
            wait = ASK_EVERY_S if self._answer.trouble is None else ASK_AGAIN_S
            if now - self._asked[1] < wait:
                return self._answer
        self._asked = interface, now
        try:
            self._answer = Seen(self._ask(self._root))
        except Unreadable as fault:
            self._answer = Seen(trouble=str(fault))
        return self._answer


def default_interface(root: Path) -> str | None:
    """Of the default route with the lowest metric, by IPv4 or else by IPv6; None without one."""
    return _lowest(_ipv4(root)) or _lowest(_ipv6(root))


def _lowest(routes: list[tuple[int, str]]) -> str | None:
    return min(routes)[1] if routes else None


def _ipv4(root: Path) -> list[tuple[int, str]]:
    """Lines of interface, destination, gateway, flags, use, use, metric, mask …, in hexadecimal."""
    found = []
    for line in _lines(root / "proc/self/net/route")[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or fields[7] != "00000000":
            continue
        flags, metric = _hex(fields[3]), _decimal(fields[6])
        if flags is not None and metric is not None and flags & _UP and not flags & _REJECT:
            found.append((metric, _name(fields[0])))
    return found


def _ipv6(root: Path) -> list[tuple[int, str]]:
    """Lines of destination, its length, source, its length, gateway, metric …, in hexadecimal."""
    found = []
    for line in _lines(root / "proc/self/net/ipv6_route"):
        fields = line.split()
        if len(fields) < 10 or fields[0].strip("0") or fields[1] != "00" or fields[9] == "lo":
            continue
        flags, metric = _hex(fields[8]), _hex(fields[5])
        if flags is not None and metric is not None and flags & _UP and not flags & _REJECT:
            found.append((metric, _name(fields[9])))
    return found


def _lines(path: Path) -> list[str]:
    return (text(path, _ROUTES_CEILING) or "").splitlines()


def _name(field: str) -> str:
    """An interface's name, which may become part of a path."""
    return word(field, 15).replace("/", "?")


def _hex(field: str) -> int | None:
    try:
        return int(field, 16) if len(field) <= 8 else None
    except ValueError:
        return None


def _decimal(field: str) -> int | None:
    return int(field) if field.isascii() and field.isdigit() and len(field) <= 10 else None

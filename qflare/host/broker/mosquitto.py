"""Configuration for mosquitto 2.0 and later."""

import base64
import hashlib
import os
import pwd
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.broker.types import COORDINATOR, DASHBOARD, MAX_PACKET, BrokerKind, BrokerPlan
from qflare.host.files import ensure_private_dir, write_atomic
from qflare.names import FleetId
from qflare.topics import ROOT, VERSION, rules

# mosquitto's own default. A password here is 32 random bytes: nobody guesses those, fast or slow.
_ITERATIONS = 101


def find() -> str | None:
    """The mosquitto binary; Debian keeps it where a user's PATH doesn't look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def hash_password(password: str, salt: bytes | None = None) -> str:
    """`password` as mosquitto_passwd writes it: PBKDF2-HMAC-SHA512 in the file's own notation."""
    salt = salt or secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS, 64)
    return hash_prefix(salt) + _base64(digest)


def hash_prefix(salt: bytes) -> str:
    """How every hash with this salt begins."""
    return f"$7${_ITERATIONS}${_base64(salt)}$"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def acl(fleet: FleetId) -> str:
    """The access file: one pattern for all devices, literal rules for the others.

    A pattern holds for every user, so the dashboard is shut out of what it would be given as if
    it were a device. What remains is that the coordinator may read back what it wrote to all.
    """
    table = rules(fleet)
    lines = ["# Generated from the fleet's access rules. Whatever isn't named here is refused.", ""]
    base = f"{ROOT}/{VERSION}/{fleet}"
    for name, access in ((COORDINATOR, table.coordinator), (DASHBOARD, table.dashboard)):
        lines.append(f"user {name}")
        if name == DASHBOARD:
            lines += [f"topic deny {base}/{name}/{tail}" for tail in ("up/#", "down/#", "state")]
        lines += [f"topic read {rule}" for rule in access.read]
        lines += [f"topic write {rule}" for rule in access.write]
        lines.append("")
    lines.append("# The user name stands for %u, and a device's user name is its name.")
    lines += [f"pattern read {rule}" for rule in table.device.read]
    lines += [f"pattern write {rule}" for rule in table.device.write]
    return "\n".join(lines) + "\n"


def enrolment_acl(fleet: FleetId) -> str:
    """The access file of the listener for tickets, whose user names are their numbers."""
    access = rules(fleet).bootstrap
    return "\n".join(
        [
            "# Generated from the fleet's access rules. A ticket's account can ask to be enrolled",
            "# and hear the answer; whatever isn't named here is refused.",
            "",
            *(f"pattern read {rule}" for rule in access.read),
            *(f"pattern write {rule}" for rule in access.write),
            "",
        ]
    )


def _enrolment(directory: Path, port: int) -> str:
    """A listener of its own: other accounts, other rules, and connections that flood it are not
    the devices'. Client ids aren't tied to users: of two boards with one ticket, one shall win.
    """
    return f"""\
listener {port} 127.0.0.1
max_connections 64
allow_anonymous false
allow_zero_length_clientid false
password_file {directory}/passwd-tokens
acl_file {directory}/acl-enrolment
"""


def config(directory: Path, port: int, max_devices: int, enrol_port: int | None = None) -> str:
    """The main file, for a listener on loopback, and one for tickets if it has a port."""
    # Started as root, mosquitto would become a user who can't look into our directory.
    user = pwd.getpwuid(os.geteuid()).pw_name
    apart = "per_listener_settings true\n" if enrol_port else ""
    enrolment = _enrolment(directory, enrol_port) if enrol_port else ""
    return f"""\
user {user}
pid_file {directory}/broker.pid
{apart}listener {port} 127.0.0.1
max_connections {max_devices + 32}
allow_anonymous false
password_file {directory}/passwd
acl_file {directory}/acl
# Without this, whoever knows a client id may take over its session under another name.
use_username_as_clientid true
allow_zero_length_clientid false
persistence true
persistence_location {directory}/
autosave_interval 60
persistent_client_expiration 14d
max_packet_size {MAX_PACKET}
max_inflight_messages 64
# Beyond these the broker drops without a word. Chunks come by credit that stays far below; the
# rest is a few small messages per device.
max_queued_messages {1000 + 8 * max_devices}
max_queued_bytes {256 * 1024 * 1024}
set_tcp_nodelay true
sys_interval 0
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false
{enrolment}"""


def write(
    directory: Path,
    port: int,
    fleet: FleetId,
    credentials: Mapping[str, str],
    max_devices: int,
    enrol_port: int | None = None,
) -> BrokerPlan:
    """Write configuration, access files and password files into `directory` (made 0700)."""
    binary = find()
    if binary is None:
        raise LocalFault("mosquitto is not installed; `apt install mosquitto` brings it")
    ensure_private_dir(directory)
    passwords = "".join(f"{user}:{hash_password(pw)}\n" for user, pw in credentials.items())
    write_atomic(directory / "passwd", passwords.encode())
    write_atomic(directory / "acl", acl(fleet).encode())
    if enrol_port:
        if not (directory / "passwd-tokens").exists():
            write_atomic(directory / "passwd-tokens", b"")
        write_atomic(directory / "acl-enrolment", enrolment_acl(fleet).encode())
    text = config(directory, port, max_devices, enrol_port)
    write_atomic(directory / "mosquitto.conf", text.encode())
    return BrokerPlan(
        kind=BrokerKind.MOSQUITTO,
        command=(binary, "-c", str(directory / "mosquitto.conf")),
        url=f"mqtt://127.0.0.1:{port}",
        config_dir=directory,
        enrol_url=f"mqtt://127.0.0.1:{enrol_port}" if enrol_port else "",
        device_accounts=directory / "passwd",
        token_accounts=directory / "passwd-tokens",
        pid_file=directory / "broker.pid",
    )

"""Choosing, configuring and starting a broker."""

import asyncio
import random
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from qflare.faults import LocalFault
from qflare.host.broker import mosquitto, nats
from qflare.host.broker.types import BrokerKind, BrokerPlan
from qflare.host.files import ensure_private_dir, write_atomic
from qflare.host.supervise import ChildSpec, Supervisor
from qflare.names import FleetId

_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def choose_broker(prefer: str = "auto") -> BrokerKind:
    """The broker to start: the preferred one, or with "auto" mosquitto before nats-server.

    Raises LocalFault that says what to install.
    """
    if prefer not in ("auto", *BrokerKind):
        raise LocalFault(f"no broker {prefer!r}; choose auto, {', '.join(BrokerKind)}")
    if prefer in ("auto", BrokerKind.MOSQUITTO) and mosquitto.find():
        return BrokerKind.MOSQUITTO
    if prefer in ("auto", BrokerKind.NATS) and nats.find():
        return BrokerKind.NATS
    remedies = {
        "auto": "`apt install mosquitto`, or `pip install qflare[broker]` without root",
        BrokerKind.MOSQUITTO: "`apt install mosquitto`",
        BrokerKind.NATS: "`pip install qflare[broker]`",
    }
    raise LocalFault(f"no MQTT broker to start ({prefer}); {remedies[prefer]}")


def make_credentials(principals: Iterable[str]) -> dict[str, str]:
    """A fresh password for each name; 256 random bits, in URL-safe text."""
    return {name: secrets.token_urlsafe(32) for name in principals}


def write_credentials(directory: Path, credentials: Mapping[str, str]) -> dict[str, Path]:
    """Write each password into a file of its own (0600 in a 0700 directory); return the paths."""
    ensure_private_dir(directory)
    paths = {name: directory / f"{name}.password" for name in credentials}
    for name, password in credentials.items():
        write_atomic(paths[name], password.encode())
    return paths


def pick_port(rng: random.Random | None = None) -> int:
    """A TCP port on loopback that nobody has at the moment.

    From outside the range of ports that the kernel gives to outgoing connections: while the
    broker is down, a link that knocks at a port of that range can be given the same one as its
    own end, and then finds itself connected to itself.
    """
    rng = rng or random.SystemRandom()
    try:
        below = int(_PORT_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        below = 32_768
    low, high = (10_000, below - 1) if below > 11_000 else (10_000, 65_535)
    for _ in range(200):
        port = rng.randint(low, high)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LocalFault("no free TCP port on 127.0.0.1 after 200 tries; what is using them all?")


def write_broker(
    kind: BrokerKind,
    directory: Path,
    port: int,
    fleet: FleetId,
    credentials: Mapping[str, str],
    max_devices: int,
    enrol_port: int | None = None,
) -> BrokerPlan:
    """Configure a broker in `directory`: devices, "coordinator" and "dashboard" by name.

    With `enrol_port` it lets in tickets as well, on a port of their own where the broker can.
    """
    write = mosquitto.write if kind is BrokerKind.MOSQUITTO else nats.write
    return write(directory, port, fleet, credentials, max_devices, enrol_port)


async def wait_ready(
    url: str, within_s: float = 20.0, alive: Callable[[], bool] = lambda: True
) -> None:
    """Wait until a broker answers a CONNECT at `url` (it may well refuse it).

    A TCP connection alone says little: nats-server accepts some before it can serve them.
    Raises LocalFault when time is up, or at once when `alive()` turns False.
    """
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while loop.time() < deadline:
        if not alive():
            raise LocalFault(f"the broker at {url} ended while starting")
        try:
            async with asyncio.timeout(min(2.0, within_s)):
                if await _answers(address.hostname or "", address.port or 1883):
                    return
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(0.05)
    raise LocalFault(f"no broker answered at {url} within {within_s:g} s")


async def _answers(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        if writer.get_extra_info("sockname") == writer.get_extra_info("peername"):
            return False
        # CONNECT, MQTT 3.1.1, clean session, keep-alive 5 s, client id "ready", no credentials.
        writer.write(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x05\x00\x05ready")
        await writer.drain()
        return await reader.read(1) == b"\x20"
    finally:
        writer.close()


async def start_broker(
    supervisor: Supervisor,
    kind: BrokerKind,
    directory: Path,
    fleet: FleetId,
    credentials: Mapping[str, str],
    max_devices: int,
    *,
    name: str = "broker",
    attempts: int = 5,
    enrolment: bool = False,
) -> BrokerPlan:
    """Configure and start a broker on a free port, another one if somebody was quicker.

    Once it runs it keeps its port, and the supervisor starts it again whenever it ends.
    """
    for attempt in range(1, attempts + 1):
        enrol_port = pick_port() if enrolment else None
        plan = write_broker(
            kind, directory, pick_port(), fleet, credentials, max_devices, enrol_port
        )

        async def ready(plan: BrokerPlan = plan) -> None:
            await wait_ready(plan.url, alive=lambda: supervisor.pid(name) is not None)

        try:
            await supervisor.start(
                ChildSpec(name=name, command=plan.command, ready=ready, stop_within_s=10.0)
            )
        except LocalFault:
            if attempt == attempts:
                raise
        else:
            return plan
    raise AssertionError("unreachable")

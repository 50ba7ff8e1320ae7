"""What happens on a network of a test's own: run by `test_link_names.py` in its own namespaces.

    unshare --mount --net python -m tests.e2e.islands SCENARIO DIRECTORY

Prints one JSON object. There, and only there, this machine's resolver asks whom we say, and IPv4 or
large packets can be missing.
"""

import asyncio
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from qflare.host.broker.mosquitto import find
from qflare.host.link import Connected, Disconnected, Event, Link, LinkConfig

Answer = dict[str, Any]
HOST = "broker.example"
SINKS: list[socket.socket] = []
SCENARIOS: dict[str, Callable[[Path], Coroutine[Any, Any, Answer]]] = {}


def scenario(function: Callable[[Path], Coroutine[Any, Any, Answer]]) -> Any:
    SCENARIOS[function.__name__] = function
    return function


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def resolver(directory: Path, options: str = "") -> None:
    """From now on names are looked up at ::1 and nowhere else."""
    for name, text in (
        ("resolv.conf", f"nameserver ::1\n{options}"),
        ("hosts", ""),
        ("nsswitch.conf", "hosts: files dns\n"),
    ):
        (directory / name).write_text(text)
        run("mount", "--bind", str(directory / name), f"/etc/{name}")


class Dns(asyncio.DatagramProtocol):
    """A DNS server: `answers` by record type (1: A, 28: AAAA), empty for others."""

    def __init__(self, answers: dict[int, str]) -> None:
        self.answers = answers
        self.asked = 0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.asked += 1
        end = data.index(b"\0", 12) + 1
        (kind,) = struct.unpack(">H", data[end : end + 2])
        record = b""
        if kind in self.answers:
            family = socket.AF_INET if kind == 1 else socket.AF_INET6
            place = socket.inet_pton(family, self.answers[kind])
            record = b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(place)) + place
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, bool(record), 0, 0)
        self._transport.sendto(head + data[12 : end + 4] + record, address)


async def dns(answers: dict[int, str]) -> Dns:
    made = Dns(answers)
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: made, local_addr=("::1", 53))
    return made


def broker(directory: Path, address: str) -> subprocess.Popen[bytes]:
    """mosquitto for anybody on port 1883 of this address."""
    config = directory / "mosquitto.conf"
    config.write_text(f"listener 1883 {address}\nallow_anonymous true\nuser root\n")
    return subprocess.Popen([find() or "", "-c", str(config)], stderr=subprocess.DEVNULL)


class Told:
    """A link's events, until enough is known."""

    def __init__(self, enough: Callable[["Told"], bool]) -> None:
        self.connected: list[Connected] = []
        self.troubles: list[Disconnected] = []
        self._enough = enough
        self.done = asyncio.Event()

    def on_event(self, event: Event) -> None:
        if isinstance(event, Connected):
            self.connected.append(event)
        elif isinstance(event, Disconnected):
            self.troubles.append(event)
        if self._enough(self):
            self.done.set()

    @property
    def reasons(self) -> list[list[str]]:
        return [[str(e.trouble), e.reason] for e in self.troubles]


async def ending(link: Link, told: Told, within: float = 60) -> None:
    """Run until enough is known, and close."""
    task = asyncio.create_task(link.run(told.on_event))
    await asyncio.wait_for(told.done.wait(), within)
    link.close()
    await task


def config(**changes: Any) -> LinkConfig:
    return LinkConfig(
        f"mqtt://{HOST}",
        "dev-1",
        backoff_first_s=0.01,
        **({"connect_within_s": 0.5, "backoff_max_s": 0.1} | changes),
    )


def black_hole(directory: Path) -> socket.socket:
    """A DNS server that takes questions and never answers: a lookup lasts two minutes and a half.

    It lives as long as the process, or else the last lookups would be told that it is gone.
    """
    sink = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sink.bind(("::1", 53))
    SINKS.append(sink)
    resolver(directory, "options timeout:30 attempts:5\n")
    return sink


@scenario
async def dead_resolver(directory: Path) -> Answer:
    """A hundred links ask, and are closed."""
    sink = black_hole(directory)
    links = [Link(config()) for _ in range(100)]
    told = [Told(lambda it: len(it.troubles) >= 3) for _ in links]
    await asyncio.gather(*(ending(*it) for it in zip(links, told, strict=True)))
    threads = len(list(Path("/proc/self/task").iterdir()))
    return {"reasons": told[0].reasons, "asked": bool(sink.recv(12)), "threads": threads}


@scenario
async def closed_while_asking(directory: Path) -> Answer:
    """`close` in the midst of a lookup."""
    sink = black_hole(directory)
    link = Link(config(connect_within_s=60.0))
    task = asyncio.create_task(link.run(lambda _: None))
    asked = await asyncio.to_thread(sink.recv, 12)
    link.close()
    await task
    return {"asked": bool(asked)}


@scenario
async def resolver_comes_back(directory: Path) -> Answer:
    """No DNS server, then one: no new start is needed."""
    resolver(directory)
    told = Told(lambda it: bool(it.connected))
    process = broker(directory, "::1")
    link = Link(config())
    task = asyncio.create_task(link.run(told.on_event))
    while len(told.troubles) < 2:
        await asyncio.sleep(0.05)
    await dns({28: "::1"})
    await asyncio.wait_for(told.done.wait(), 60)
    link.close()
    await task
    process.kill()
    return {"reasons": told.reasons[:2], "url": told.connected[0].url}


@scenario
async def only_ipv6(directory: Path) -> Answer:
    """No IPv4 address on this machine, and none of the broker."""
    run("ip", "-4", "address", "flush", "dev", "lo")
    server = await dns({28: "::1"})
    resolver(directory)
    process = broker(directory, "::1")
    told = Told(lambda it: bool(it.connected))
    await ending(Link(config()), told)
    process.kill()
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", 53), 1).close()
        raise AssertionError("IPv4 works here")
    return {"url": told.connected[0].url, "asked": server.asked > 0}


@scenario
async def half_a_dual_stack(directory: Path) -> Answer:
    """The name has an IPv6 address that swallows everything, and an IPv4 address that serves."""
    run("ip", "link", "add", "name", "qf0", "type", "veth", "peer", "name", "qf1")
    run("ip", "link", "set", "qf0", "up")
    run("ip", "link", "set", "qf1", "up")
    run("ip", "-6", "address", "add", "2001:db8::1/64", "dev", "qf0", "nodad")
    run("ip", "-6", "neighbour", "add", "2001:db8::2", "lladdr", "02:00:00:00:00:02", "dev", "qf0")
    await dns({1: "127.0.0.1", 28: "2001:db8::2"})
    resolver(directory)
    process = broker(directory, "127.0.0.1")
    told = Told(lambda it: bool(it.connected))
    await ending(Link(config(connect_within_s=2.0)), told)
    process.kill()
    return {"reasons": told.reasons}


@scenario
async def portal_by_name(directory: Path) -> Answer:
    """The network's DNS leads every name to the portal, which is a web server."""
    heard = b""

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard += await reader.read(4096)
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n")
        writer.close()

    await dns({28: "::1"})
    resolver(directory)
    await asyncio.start_server(web, "::1", 8883)
    told = Told(lambda it: len(it.troubles) >= 3)
    secret = LinkConfig(
        f"mqtts://{HOST}", "dev-1", password="hunter2", backoff_first_s=0.01, backoff_max_s=0.1
    )
    await ending(Link(secret), told)
    return {"reasons": told.reasons, "leaked": b"hunter2" in heard or b"dev-1" in heard}


MTU_BLACK_HOLE = """
mount -t tmpfs none /run
ip netns add router
ip netns add far
ip link add name c0 type veth peer name r0
ip link add name f0 type veth peer name r1
ip link set r0 netns router
ip link set r1 netns router
ip link set f0 netns far
ip address add 10.1.0.2/24 dev c0
ip link set c0 up
ip route add default via 10.1.0.1
ip -n router address add 10.1.0.1/24 dev r0
ip -n router address add 10.2.0.1/24 dev r1
ip -n router link set r0 up
ip -n router link set r1 mtu 1300 up
ip netns exec router sysctl -qw net.ipv4.ip_forward=1
ip -n far address add 10.2.0.2/24 dev f0
ip -n far link set f0 up
ip -n far route add default via 10.2.0.1
ip rule add pref 10 lookup local
ip rule del pref 0
ip rule add pref 5 iif c0 ipproto icmp blackhole
"""


@scenario
async def small_packets_only(directory: Path) -> Answer:
    """A hop takes 1300 bytes, and the firewall here drops the ICMP message that says so."""
    for line in MTU_BLACK_HOLE.strip().splitlines():
        run(*line.split())
    conf = directory / "mosquitto.conf"
    conf.write_text("listener 1883 10.2.0.2\nallow_anonymous true\nuser root\n")
    process = subprocess.Popen(
        ["ip", "netns", "exec", "far", find() or "", "-c", str(conf)], stderr=subprocess.DEVNULL
    )
    link = Link(LinkConfig("mqtt://10.2.0.2", "dev-1", backoff_first_s=0.05, ack_within_s=0))
    told = Told(lambda it: bool(it.connected))
    task = asyncio.create_task(link.run(told.on_event))
    await asyncio.wait_for(told.done.wait(), 30)
    link.publish("chunk", bytes(256 * 1024))
    arrived = await link.drain(20)
    link.close()
    await task
    process.kill()
    return {"arrived": arrived}


def main() -> None:
    name, directory = sys.argv[1], Path(sys.argv[2])
    run("ip", "link", "set", "lo", "up")
    answer = asyncio.run(SCENARIOS[name](directory))
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()

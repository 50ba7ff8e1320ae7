"""The link in bad networks, with real brokers: what it notices, says, and how it comes back."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qflare.host.broker import BrokerKind
from qflare.host.dial import is_broker
from qflare.host.link import Connected, Disconnected, LinkConfig, Trouble
from qflare.host.link_types import parse_url

from .authority import Authority
from .conftest import RunningBroker, WithBroker
from .link_watch import dying, running
from .relay import relay_to

pytestmark = pytest.mark.slow

BASE = "qflare/1/demo"
SECRET = "hunter2-hunter2"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def spoken(broker: RunningBroker) -> str:
    """The newest protocol that the broker speaks: no time is spent on finding out."""
    return "5" if broker.kind is BrokerKind.MOSQUITTO else "3.1.1"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_what_came_while_the_link_was_away_is_there_when_it_is_back(
    with_broker: WithBroker, protocol: str
) -> None:
    """A persistent session, in whatever protocol: cut off, and after a goodbye."""
    down = f"{BASE}/dev-1/down/grant"

    async def body(broker: RunningBroker) -> None:
        if broker.kind is BrokerKind.NATS and protocol == "5":
            pytest.skip("nats-server speaks MQTT 3.1.1 only")
        config = broker.config("dev-1", protocol=protocol)
        async with running(broker.config("coordinator")) as coordinator:
            await coordinator.until(Connected)
            async with dying(config, [f"{BASE}/dev-1/down/#"]) as dev:
                await dev.until(Connected)
            await asyncio.sleep(0.2)  # the broker notices
            assert coordinator.link.publish(down, b"one")
            assert await coordinator.link.drain(10)
            async with running(config, [f"{BASE}/dev-1/down/#"]) as dev:
                await dev.until_message(b"one")
            assert coordinator.link.publish(down, b"two")
            assert await coordinator.link.drain(10)
            async with running(config, [f"{BASE}/dev-1/down/#"]) as dev:
                await dev.until_message(b"two")
                assert (await dev.until(Connected)).protocol == protocol

    with_broker(body)


def test_a_half_open_connection_is_noticed_and_what_was_lost_is_counted(
    with_broker: WithBroker,
) -> None:
    """Bytes go nowhere, nobody says so: only the missing answer to a ping tells."""

    async def body(broker: RunningBroker) -> None:
        async with relay_to(broker.plan.url) as relay:
            config = broker.config(
                "dev-1",
                url=f"mqtt://127.0.0.1:{relay.port}",
                protocol=spoken(broker),
                keepalive_s=2,
                ack_within_s=0,
            )
            async with running(config) as dev:
                await dev.until(Connected)
                relay.silent = True
                assert dev.link.publish(f"{BASE}/dev-1/up/hello", b"into the void")
                end = await dev.until(Disconnected)
                assert end.trouble is Trouble.LOST
                assert "Keep alive" in end.reason
                # Not the link repeats it: who has no receipt offers again, when told of this.
                assert dev.link.counters.lost_out == 1
                relay.silent = False
                await dev.until(Connected, 2)
                assert dev.link.publish(f"{BASE}/dev-1/up/hello", b"again")
                assert await dev.link.drain(10)

    with_broker(body)


def test_the_broker_is_told_a_keep_alive_time_of_which_a_dead_path_takes_one_and_a_half(
    with_broker: WithBroker,
) -> None:
    from qflare.host import link_client

    seen: list[int] = []

    class Watched(link_client.Client):
        async def open(self) -> None:
            seen.append(self._client.keepalive)
            await super().open()
            seen.append(self._client.keepalive)

    async def body(broker: RunningBroker) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("qflare.host.link.Client", Watched)
            async with running(broker.config("dev-1", protocol="3.1.1")) as dev:
                await dev.until(Connected)
        assert seen == [60, 45]  # a ping after 45 s of silence, and its answer within 45 s

    with_broker(body)


def test_a_nat_that_forgets_idle_connections_is_kept_awake_or_noticed(
    with_broker: WithBroker,
) -> None:
    async def body(broker: RunningBroker) -> None:
        async with relay_to(broker.plan.url) as relay:
            config = broker.config(
                "dev-1",
                url=f"mqtt://127.0.0.1:{relay.port}",
                protocol=spoken(broker),
                keepalive_s=2,
            )
            relay.forget_after_s = 3.0  # longer than the pings are apart
            async with running(config) as dev:
                await dev.until(Connected)
                await asyncio.sleep(7)
                assert (dev.link.connected, dev.link.counters.connects) == (True, 1)
                assert relay.forgotten == 0
                relay.forget_after_s = 0.5
                await dev.until(Disconnected)
                assert relay.forgotten == 1
                relay.forget_after_s = None
                await dev.until(Connected, 2)

    with_broker(body)


def test_a_password_that_becomes_right_lets_the_device_in_by_itself(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("wrong")

    async def body(broker: RunningBroker) -> None:
        config = broker.config("dev-1", password=None, password_file=password, backoff_max_s=2.0)
        async with running(config) as dev:
            await dev.until_true(lambda: any(e.refused for e in dev.of(Disconnected)))
            refused = next(e for e in dev.of(Disconnected) if e.refused)
            assert refused.retry_in_s >= 1.0  # nearly the longest time, from the first one on
            assert "check the account" in refused.reason
            password.write_text(broker.credentials["dev-1"])
            await dev.until(Connected)

    with_broker(body)


def test_a_device_that_waits_is_hurried(with_broker: WithBroker, tmp_path: Path) -> None:
    """A reload, as an operator asks for it who changed the password: no waiting for the hour."""
    password = tmp_path / "password"
    password.write_text("wrong")

    async def body(broker: RunningBroker) -> None:
        config = broker.config("dev-1", password=None, password_file=password, backoff_max_s=3600.0)
        async with running(config) as dev:
            await dev.until_true(lambda: any(e.refused for e in dev.of(Disconnected)))
            password.write_text(broker.credentials["dev-1"])
            dev.link.retry_now()
            await dev.until(Connected)

    with_broker(body)


def test_a_clock_that_jumps_by_years_moves_no_connection(
    with_broker: WithBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time

    async def body(broker: RunningBroker) -> None:
        config = broker.config("dev-1", keepalive_s=2)
        async with running(config, [f"{BASE}/dev-1/down/#"]) as dev:
            await dev.until(Connected)
            for years in (30, -40, 0):
                monkeypatch.setattr(time, "time", lambda y=years: real() + y * 365 * 86_400)
                await asyncio.sleep(3)  # a keep-alive time
                assert dev.link.publish(f"{BASE}/dev-1/up/hello", b"x")
                assert await dev.link.drain(10)
            assert dev.link.counters.connects == 1

    with_broker(body)


def test_a_broker_is_told_from_what_only_listens(with_broker: WithBroker) -> None:
    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def body(broker: RunningBroker) -> None:
        assert await is_broker(parse_url(broker.plan.url), None, 5)
        for handler in (silence, web):
            async with serving(handler) as port:
                assert not await is_broker(parse_url(f"mqtt://127.0.0.1:{port}"), None, 0.5)
        assert not await is_broker(parse_url(f"mqtt://127.0.0.1:{port}"), None, 0.5)

    with_broker(body)


def test_a_half_dead_first_broker_is_passed_over_and_returned_to_when_it_lives(
    with_broker: WithBroker,
) -> None:
    """It accepts connections and says nothing. The link on the fallback isn't fooled by that."""

    async def body(broker: RunningBroker) -> None:
        async with relay_to(broker.plan.url) as home:
            home.silent = True
            config = broker.config(
                "dev-1",
                url=f"mqtt://127.0.0.1:{home.port}",
                fallbacks=(broker.plan.url,),
                protocol=spoken(broker),
                connect_within_s=0.5,
                home_after_s=0.2,
            )
            async with running(config, [f"{BASE}/dev-1/down/#"]) as dev:
                up = await dev.until(Connected)
                assert up.url == broker.plan.url
                assert [e.trouble for e in dev.of(Disconnected)] == [Trouble.SILENT]
                tried = home.connections
                while home.connections < tried + 2:
                    await asyncio.sleep(0.05)
                assert dev.link.counters.connects == 1  # it looked twice, and stayed
                home.silent = False
                back = await dev.until(Connected, 2)
                assert back.url == config.url
                assert "answers again" in dev.of(Disconnected)[1].reason

    with_broker(body)


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on a port of this machine."""

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Portal:
    """What a captive portal may do with a connection that was meant for a broker."""

    def __init__(self, manner: str, directory: Path) -> None:
        self.manner = manner
        self.heard = b""
        self.context: ssl.SSLContext | None = None
        if manner == "certificate":  # of its own CA, for the broker's name
            Authority.make("portal").issue(directory, "127.0.0.1")
            self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.context.load_cert_chain(directory / "server.pem", directory / "server.key")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += await reader.read(4096)
        if self.manner == "http":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n")
            await writer.drain()
        elif self.manner == "swallows":
            self.heard += await reader.read()


@pytest.mark.parametrize(
    ("manner", "trouble", "remedy"),
    [
        ("http", Trouble.NO_BROKER, "log this network in"),
        ("certificate", Trouble.CERTIFICATE, "log this network in"),
        ("swallows", Trouble.SILENT, "log this network in"),
        ("hangs up", Trouble.NO_BROKER, "log this network in"),
    ],
)
def test_a_captive_portal_is_told_and_learns_no_credentials(
    tmp_path: Path, manner: str, trouble: Trouble, remedy: str
) -> None:
    Authority.make("the fleet's CA").save(tmp_path / "ca.pem")

    async def main() -> None:
        portal = Portal(manner, tmp_path)
        async with serving(portal.serve, portal.context) as port:
            config = LinkConfig(
                f"mqtts://127.0.0.1:{port}",
                "dev-1",
                password=SECRET,
                ca_file=tmp_path / "ca.pem",
                connect_within_s=0.5,
                backoff_first_s=0.01,
            )
            async with running(config) as dev:
                await dev.until(Disconnected, 3)
            for event in dev.of(Disconnected)[:3]:
                assert (event.trouble, event.refused) == (trouble, False)
                assert remedy in event.reason
                assert SECRET not in event.reason
            assert SECRET.encode() not in portal.heard
            assert b"dev-1" not in portal.heard
            assert (portal.heard == b"") is (manner == "certificate")

    asyncio.run(main())

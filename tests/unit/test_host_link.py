"""The link without a real broker: addresses, back-off, and brokers that are slow of speech."""

import asyncio
import random
import socket
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.faults import LocalFault
from qflare.host.link import (
    Connected,
    Disconnected,
    Event,
    Link,
    LinkConfig,
    private_client_id,
)
from qflare.host.notify import notify, watchdog_seconds


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "mqtt://",
        "mqtt://user@host",
        "mqtt://user:secret@host",
        "mqtt://host/path",
        "mqtt://host?x=1",
        "mqtt://host:0",
        "mqtt://host:99999",
        "host:1883",
        "mqtt://[::1",
        "mqtt://[nonsense]:1",
        "",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(LocalFault, match="want mqtt://host:port"):
        Link(LinkConfig(url, "dev-1"))


def test_secrets_have_no_repr() -> None:
    assert "hunter2" not in repr(LinkConfig("mqtt://h", "dev-1", password="hunter2"))


def test_client_ids_are_stable_and_depend_on_the_password() -> None:
    assert private_client_id("dev-1", "a") == private_client_id("dev-1", "a")
    assert private_client_id("dev-1", "a") != private_client_id("dev-1", "b")
    assert private_client_id("dev-1", "a").startswith("dev-1-")


def test_nothing_is_taken_while_disconnected_and_too_much_is_an_error() -> None:
    link = Link(LinkConfig("mqtt://h", "dev-1", max_packet=1000))
    assert not link.publish("t", b"x")
    assert link.max_payload("t") == 983
    with pytest.raises(LocalFault, match="smaller chunks"):
        link.publish("t", bytes(984))


def test_a_missing_password_file_says_so(tmp_path: Path) -> None:
    link = Link(LinkConfig("mqtt://127.0.0.1:9", "dev-1", password_file=tmp_path / "none"))
    with pytest.raises(LocalFault, match="cannot read the broker password"):
        asyncio.run(link.run(lambda _event: None))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_back_off_grows_with_full_jitter_and_has_an_end() -> None:
    delays: list[float] = []

    async def main() -> None:
        config = LinkConfig(
            f"mqtt://127.0.0.1:{free_port()}", "d", backoff_first_s=0.001, backoff_max_s=0.01
        )
        link = Link(config, rng=random.Random(1))

        def on_event(event: Event) -> None:
            assert isinstance(event, Disconnected)
            assert not event.refused
            delays.append(event.retry_in_s)
            if len(delays) == 40:
                link.close()

        await asyncio.wait_for(link.run(on_event), 20)

    asyncio.run(main())
    assert all(d <= min(0.01, 0.001 * 2**i) for i, d in enumerate(delays))
    assert max(delays) > 0.008
    assert min(delays[10:]) < 0.003


@given(st.integers(0, 10_000), st.integers(0, 2**32), st.booleans())
def test_every_wait_has_jitter_and_a_bound(failures: int, seed: int, refused: bool) -> None:
    """Full jitter below twice as much each time; a refusal in the upper half of the longest."""
    link = Link(LinkConfig("mqtt://h", "d"), rng=random.Random(seed))
    wait = link._backoff(failures, refused)
    longest = link.config.backoff_max_s
    if refused:
        assert longest / 2 <= wait <= longest
    else:
        assert 0 <= wait <= min(longest, link.config.backoff_first_s * 2 ** min(failures, 30))


@pytest.mark.parametrize("refused", [False, True])
def test_a_thousand_links_spread_over_the_whole_range(refused: bool) -> None:
    links = [Link(LinkConfig("mqtt://h", "d"), rng=random.Random(i)) for i in range(1000)]
    low, high = (15.0, 30.0) if refused else (0.0, 30.0)
    tenths = Counter(int((link._backoff(20, refused) - low) / (high - low) * 10) for link in links)
    assert all(60 < tenths[i] < 150 for i in range(10))


def test_a_wait_ends_when_it_is_told_to_and_begins_small_again() -> None:
    async def main() -> list[float]:
        config = LinkConfig(
            f"mqtt://127.0.0.1:{free_port()}", "d", backoff_first_s=3600, backoff_max_s=3600
        )
        link, waits = Link(config, rng=random.Random(5)), []

        def on_event(event: Event) -> None:
            assert isinstance(event, Disconnected)
            waits.append(event.retry_in_s)
            link.retry_now() if len(waits) < 5 else link.close()

        await asyncio.wait_for(link.run(on_event), 20)
        return waits

    assert len(asyncio.run(main())) == 5


def test_a_link_closes_while_it_connects() -> None:
    """The other side takes the connection, and then nothing: no time limit is waited for."""

    async def main() -> None:
        connected = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read(10)
            connected.set()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = Link(LinkConfig(f"mqtt://127.0.0.1:{port}", "d", connect_within_s=3600))
        task = asyncio.create_task(link.run(lambda _event: None))
        await connected.wait()
        link.close()
        await asyncio.wait_for(task, 20)
        server.close()

    asyncio.run(main())


def test_a_packet_that_is_far_too_large_ends_the_connection_before_it_is_in_memory() -> None:
    async def main() -> Disconnected:
        async def boast(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(200)
            writer.write(b"\x20\x02\x00\x00" + b"\x30\xff\xff\xff\x7f" + bytes(70_000))
            await reader.read()
            writer.close()

        server = await asyncio.start_server(boast, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = Link(LinkConfig(f"mqtt://127.0.0.1:{port}", "d", protocol="3.1.1"))
        ended: asyncio.Future[Disconnected] = asyncio.get_running_loop().create_future()

        def on_event(event: Event) -> None:
            if isinstance(event, Disconnected):
                ended.set_result(event)
                link.close()

        await asyncio.wait_for(link.run(on_event), 20)
        server.close()
        return await ended

    assert "too large" in asyncio.run(main()).reason


@pytest.mark.parametrize("manner", ["silent", "hangs up", "says no"])
def test_a_broker_that_only_knows_311_is_spoken_to_in_311(manner: str) -> None:
    """Three ways in which brokers meet an MQTT 5 CONNECT that they don't understand."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(200)
        level = connect[connect.index(b"MQTT") + 4]
        if level == 4:
            writer.write(b"\x20\x02\x00\x00")
        elif manner == "says no":
            writer.write(b"\x20\x02\x00\x01")
        elif manner == "hangs up":
            writer.close()
            return
        await reader.read()  # until the other side goes
        writer.close()

    async def main() -> list[Event]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        events: list[Event] = []
        link = Link(
            LinkConfig(f"mqtt://127.0.0.1:{port}", "d", connect_within_s=0.5, backoff_first_s=0.01)
        )

        def on_event(event: Event) -> None:
            events.append(event)
            if isinstance(event, Connected):
                link.close()

        async with server:
            await asyncio.wait_for(link.run(on_event), 20)
        return events

    first, second = asyncio.run(main())
    assert isinstance(first, Disconnected)
    assert ", MQTT 5: " in first.reason
    assert first.retry_in_s == 0
    assert isinstance(second, Connected)
    assert (second.protocol, second.max_packet) == ("3.1.1", 1024 * 1024)


async def _plain_broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says yes to an MQTT 3.1.1 CONNECT, hangs up on anything else, and does no more."""
    if (await reader.read(200)).startswith(b"\x10"):
        writer.write(b"\x20\x02\x00\x00")
        await reader.read()
    writer.close()


def test_a_fallback_serves_until_the_first_broker_is_back() -> None:
    async def main() -> list[str]:
        home, seen = free_port(), []
        server = await asyncio.start_server(_plain_broker, "127.0.0.1", 0)
        away = server.sockets[0].getsockname()[1]
        config = LinkConfig(
            f"mqtt://127.0.0.1:{home}",
            "d",
            protocol="3.1.1",
            fallbacks=(f"mqtt://127.0.0.1:{away}",),
            backoff_first_s=0.01,
            home_after_s=0.2,
        )
        link = Link(config)
        first: list[asyncio.Server] = []

        async def start_home() -> None:
            first.append(await asyncio.start_server(_plain_broker, "127.0.0.1", home))

        def on_event(event: Event) -> None:
            if isinstance(event, Connected):
                seen.append("home" if event.url == config.url else "away")
                if seen[-1] == "home":
                    link.close()
                else:
                    starting.append(asyncio.create_task(start_home()))
            elif seen:
                assert isinstance(event, Disconnected)
                assert "answers again" in event.reason
                assert event.retry_in_s == 0

        starting: list[asyncio.Task[None]] = []
        await asyncio.wait_for(link.run(on_event), 20)
        server.close()
        first[0].close()
        return seen

    assert asyncio.run(main()) == ["away", "home"]


def test_a_first_broker_that_seems_to_live_is_tried_ever_less_often() -> None:
    """It hangs up on everybody, as a proxy does whose backend is gone."""

    async def main() -> tuple[int, float]:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        home = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        away = await asyncio.start_server(_plain_broker, "127.0.0.1", 0)
        urls = [f"mqtt://127.0.0.1:{it.sockets[0].getsockname()[1]}" for it in (home, away)]
        link = Link(
            LinkConfig(
                urls[0],
                "d",
                protocol="3.1.1",
                fallbacks=(urls[1],),
                backoff_first_s=0.01,
                home_after_s=0.01,
            )
        )

        def on_event(event: Event) -> None:
            if link.counters.connects == 5:
                link.close()

        await asyncio.wait_for(link.run(on_event), 30)
        home.close()
        away.close()
        return link.counters.connects, link._home_after_s

    assert asyncio.run(main()) == (5, 0.01 * 2**4)


def _portal(answer: bytes) -> str:
    """The last complaint of a link to something that answers any bytes with these."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(200)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def main() -> str:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = Link(
            LinkConfig(f"mqtt://127.0.0.1:{port}", "d", backoff_first_s=0.01, connect_within_s=1)
        )
        said: list[str] = []

        def on_event(event: Event) -> None:
            assert isinstance(event, Disconnected)
            assert not event.refused
            said.append(event.reason)
            if len(said) == 4:
                link.close()

        async with server:
            await asyncio.wait_for(link.run(on_event), 30)
        return said[-1]

    return asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n",
        b"<html>" * 1000,
        b"",
        bytes(range(256)),
    ],
)
def test_a_captive_portal_is_named_and_outlived(answer: bytes) -> None:
    assert "captive portal" in _portal(answer)


def test_names_that_resolve_later(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = socket.getaddrinfo, 0

    def flaky(host: str, *rest: object, **more: object) -> object:
        nonlocal asked
        if host != "broker.example":
            return real(host, *rest, **more)  # type: ignore[arg-type]
        asked += 1
        if asked < 4:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real("127.0.0.1", *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", flaky)

    async def main() -> list[Event]:
        server = await asyncio.start_server(_plain_broker, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        events: list[Event] = []
        config = LinkConfig(
            f"mqtt://broker.example:{port}", "d", protocol="3.1.1", backoff_first_s=0.01
        )
        link = Link(config)

        def on_event(event: Event) -> None:
            events.append(event)
            if isinstance(event, Connected):
                link.close()

        async with server:
            await asyncio.wait_for(link.run(on_event), 30)
        return events

    events = asyncio.run(main())
    assert len(events) == 4
    assert isinstance(events[0], Disconnected)
    assert "name resolution" in events[0].reason


def test_notify_reaches_systemd_and_is_nothing_without_it(tmp_path: Path) -> None:
    notify("READY=1", environ={})
    notify("READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "s"))
        notify("READY=1", "STATUS=idle", environ={"NOTIFY_SOCKET": str(tmp_path / "s")})
        assert systemd.recv(100) == b"READY=1\nSTATUS=idle"
    assert watchdog_seconds({}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "3000000"}) == 1.5
    assert watchdog_seconds({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}) is None

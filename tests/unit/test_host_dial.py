"""From a name to a socket: which places are tried, who waits for a lookup, what garbage does."""

import asyncio
import socket
import ssl
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.host import dial as module
from qflare.host.dial import NoConnection, dial, is_broker
from qflare.host.link_types import Trouble, parse_url

PLACES = st.lists(
    st.builds(
        lambda v6, n: (
            socket.AF_INET6 if v6 else socket.AF_INET,
            socket.SOCK_STREAM,
            6,
            "",
            (f"fd00::{n}", 1, 0, 0) if v6 else (f"10.0.0.{n}", 1),
        ),
        st.booleans(),
        st.integers(1, 9),
    ),
    max_size=12,
)


@given(PLACES)
def test_both_families_get_their_turn_and_none_twice(found: list[tuple[Any, ...]]) -> None:
    places = module._ordered(found)
    assert len(places) == len(set(places)) <= 4
    assert {family for family, _ in places} == {entry[0] for entry in found}
    if found:
        assert places[0] == (found[0][0], found[0][4])  # the resolver's preference stands


def test_a_lookup_is_shared_and_outlived_by_those_who_gave_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, release = [], threading.Event()

    def slow(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        release.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = parse_url(f"mqtt://slow.example:{server.getsockname()[1]}")

        async def main() -> None:
            tries = [dial(address, None, 0.05) for _ in range(5)]
            for end in await asyncio.gather(*tries, return_exceptions=True):
                assert isinstance(end, NoConnection)
                assert end.trouble is Trouble.NAME
            patient = asyncio.create_task(dial(address, None, 20))
            await asyncio.sleep(0)
            release.set()
            (await patient).close()

        asyncio.run(main())
    assert asked == ["slow.example"]
    assert not module._lookups


@pytest.mark.parametrize("host", ["no such name", "x" * 64 + ".example", "..", "a..b", "\x00"])
def test_names_that_are_none_are_trouble_with_the_name(host: str) -> None:
    address = module.Address("mqtt://?", host, 1, False)
    with pytest.raises(NoConnection) as caught:
        asyncio.run(dial(address, None, 20))
    assert caught.value.trouble is Trouble.NAME


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_in_place_of_tls_is_trouble_and_nothing_else(garbage: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(garbage)
        writer.close()

    async def main() -> NoConnection:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = parse_url(f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            with pytest.raises(NoConnection) as caught:
                await dial(address, ssl.create_default_context(), 20)
        finally:
            server.close()
        return caught.value

    assert asyncio.run(main()).trouble in (Trouble.NO_BROKER, Trouble.SILENT)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=100))
def test_no_garbage_is_a_broker(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        writer.close()

    async def main() -> bool:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = parse_url(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            return await is_broker(address, None, 20)
        finally:
            server.close()

    assert asyncio.run(main()) is (said[0] == 0xE0)  # MQTT 5 may say DISCONNECT first

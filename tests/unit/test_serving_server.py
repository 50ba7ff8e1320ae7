"""The server against clients that are slow, rude, many, or that send garbage."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.serving.connection import HEAD_MAX
from edge_runtime.serving.listening import bound
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import Serving, ServingSection
from edge_runtime.slots import Slots
from qflare.faults import LocalFault
from qflare.host.config import ConfigFault
from tests.serving_rig import exchange, put_model

ROWS = np.zeros((2, 6), "<f4").tobytes()


def request(body: bytes = ROWS, more: str = "", kind: str = "application/octet-stream") -> bytes:
    head = f"POST /v1/infer HTTP/1.1\r\nHost: model\r\nContent-Type: {kind}\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    made = Slots(tmp_path / "model")
    put_model(made, 1)
    return made


def play(
    slots: Slots, section: ServingSection, case: Callable[[Path, Server], Awaitable[None]]
) -> None:
    """Run a case against a server in this process."""

    async def run() -> None:
        path = slots.link.parent.parent / "model.sock"
        server = Server(Serving(slots.link.parent, section))
        listener = bound(path, None)
        listening = await asyncio.start_unix_server(server.accept, sock=listener, limit=HEAD_MAX)
        try:
            async with asyncio.timeout(60):
                await case(path, server)
        finally:
            listening.close()
            await server.stop()
            path.unlink()

    asyncio.run(run())


def status_of(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def text_of(response: bytes) -> str:
    return str(json.loads(response.partition(b"\r\n\r\n")[2])["error"])


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        (b"\0\1\2\3\r\n\r\n", 400, "HTTP"),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", 400, "Host"),
        (b"GET /v1/status HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000, 431, "HTTP"),
        (b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404, "/v1/infer"),
        (b"DELETE /v1/infer HTTP/1.1\r\nHost: a\r\n\r\n", 405, "POST"),
        (request(b"abc"), 400, "24 bytes"),
        (request(kind="text/html"), 415, "Content-Type"),
        (request(bytes(2000)), 413, "fewer rows"),
        (b"POST /v1/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413, ""),
        (b"POST /v1/infer HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "HTTP"),
        (b"POST /v1/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 411, ""),
        (b"GET /v1/metadata HTTP/1.0\r\n\r\n", 200, None),
    ],
)
def test_what_is_answered(slots: Slots, sent: bytes, status: int, says: str | None) -> None:
    async def case(path: Path, server: Server) -> None:
        response = await exchange(path, sent)
        assert status_of(response) == status
        if says is not None:
            assert says in text_of(response)
        assert status_of(await exchange(path, request())) == 200

    play(slots, ServingSection(request_kb=1), case)


def test_garbage_never_stops_the_server(slots: Slots) -> None:
    mutated = st.builds(
        lambda at, new: request()[:at] + new + request()[at + len(new) :],
        st.integers(0, len(request())),
        st.binary(max_size=6),
    )

    @settings(max_examples=150, deadline=None)
    @given(data=st.lists(st.binary(max_size=300) | mutated | st.just(request()), max_size=4))
    def garbage(data: list[bytes]) -> None:
        response = loop.run_until_complete(exchange(path, b"".join(data)))
        assert response == b"" or response.startswith(b"HTTP/1.1 ")
        assert b"500 " not in response

    path = slots.link.parent.parent / "model.sock"
    loop = asyncio.new_event_loop()
    server = Server(Serving(slots.link.parent, ServingSection(timeout_s=5)))
    starting = asyncio.start_unix_server(server.accept, sock=bound(path, None), limit=HEAD_MAX)
    listening = loop.run_until_complete(starting)
    try:
        garbage()
        assert status_of(loop.run_until_complete(exchange(path, request()))) == 200
        assert server.connections == 0
    finally:
        listening.close()
        loop.run_until_complete(server.stop())
        loop.close()


def test_requests_of_one_connection_come_in_any_pieces(slots: Slots) -> None:
    async def case(path: Path, server: Server) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        whole = request() + request() + b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n"
        for i in range(0, len(whole), 7):
            writer.write(whole[i : i + 7])
            await asyncio.sleep(0)
        found = b""
        while found.count(b"HTTP/1.1 200") < 3:
            found += await reader.read(1000)
        writer.close()

    play(slots, ServingSection(), case)


def test_slow_clients_hold_up_nobody(slots: Slots) -> None:
    async def case(path: Path, server: Server) -> None:
        slow = [await asyncio.open_unix_connection(path) for _ in range(4)]
        for _, writer in slow[:2]:  # these never send the rest
            writer.write(request()[:-5])
        for _, writer in slow[2:]:  # these never read the answers
            for _ in range(3):
                writer.write(request(bytes(24 * 30_000)))
        for _ in range(20):
            assert status_of(await exchange(path, request())) == 200
        late = await slow[0][0].read()
        assert status_of(late) == 408
        patience = asyncio.get_running_loop().time() + 30
        while server.connections and asyncio.get_running_loop().time() < patience:
            await asyncio.sleep(0.05)
        assert not server.connections
        for _, writer in slow:
            writer.close()

    play(slots, ServingSection(timeout_s=0.5), case)


def test_an_idle_connection_gives_way_and_a_busy_one_does_not(slots: Slots) -> None:
    async def case(path: Path, server: Server) -> None:
        idle = await asyncio.open_unix_connection(path)
        busy = await asyncio.open_unix_connection(path)
        busy[1].write(request()[:-5])
        await asyncio.sleep(0.1)
        assert status_of(await exchange(path, request())) == 200  # in the place of the idle one
        assert await idle[0].read() == b""
        more = await asyncio.open_unix_connection(path)
        more[1].write(request()[:-5])
        await asyncio.sleep(0.1)
        refused = await exchange(path, request())
        assert status_of(refused) == 503
        assert "connections" in text_of(refused)
        busy[1].write(request()[-5:])
        assert status_of(await busy[0].readuntil(b"\r\n")) == 200
        for _, writer in (idle, busy, more):
            writer.close()

    play(slots, ServingSection(connections=2), case)


def test_large_requests_have_a_bound_all_together_and_small_ones_get_in(slots: Slots) -> None:
    async def case(path: Path, server: Server) -> None:
        senders = [await asyncio.open_unix_connection(path) for _ in range(4)]
        body = bytes(24 * 4000)
        for _, writer in senders:
            writer.write(request(body)[:-1])
        await asyncio.sleep(0.2)
        assert status_of(await exchange(path, request(body))) == 503
        assert status_of(await exchange(path, request())) == 200
        for _, writer in senders:
            writer.write(body[-1:])
        for reader, writer in senders:
            assert status_of(await reader.readuntil(b"\r\n")) == 200
            writer.close()
        assert status_of(await exchange(path, request(body))) == 200

    play(slots, ServingSection(request_kb=94), case)


def test_status_counts(slots: Slots) -> None:
    async def case(path: Path, server: Server) -> None:
        for _ in range(3):
            await exchange(path, request())
        await exchange(path, request(b"abc"))
        use = server.status()["use"]
        assert (use["requests"], use["rows"], use["answered_400"]) == (3, 6, 1)
        assert use["latency_ms"]["p99"] >= use["latency_ms"]["p50"] > 0

    play(slots, ServingSection(), case)


class TestSocket:
    def test_only_the_owner_and_the_group(self, tmp_path: Path) -> None:
        import os
        import stat

        path = tmp_path / "s"
        with bound(path, None):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.unlink()
        with bound(path, os.getegid()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660

    def test_one_that_was_left_behind_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        bound(path, None).close()
        assert path.is_socket()
        bound(path, None).close()

    def test_one_that_is_in_use_is_not(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        with bound(path, None), pytest.raises(LocalFault, match="another process"):
            bound(path, None)

    def test_a_place_where_it_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("precious")
        for path in (tmp_path / "file", tmp_path / "none" / "s", tmp_path / ("x" * 120)):
            with pytest.raises(ConfigFault, match=r"serving\.socket"):
                bound(path, None)
        assert (tmp_path / "file").read_text() == "precious"

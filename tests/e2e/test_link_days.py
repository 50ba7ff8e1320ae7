"""Many links at once, long outages, and what logs say of them: little, and no secret."""

import asyncio
import gc
import json
import logging
import random
import selectors
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest

from qflare.host import logs
from qflare.host.broker import BrokerKind, make_credentials, start_broker
from qflare.host.broker.mosquitto import find
from qflare.host.link import Connected, Disconnected, Event, Link, LinkConfig, private_client_id
from qflare.host.link_client import Client
from qflare.host.link_log import LinkLines, tell
from qflare.host.supervise import Supervisor
from qflare.names import DeviceId, FleetId
from qflare.topics import All, Down
from qflare.transfer import Grant
from tests.edge_lab import DEVICE, Lab

from .conftest import RunningBroker, WithBroker
from .link_watch import running
from .relay import relay_to
from .test_edge_process import count, desk, device, slow_offer, until, write_device

pytestmark = pytest.mark.slow

LINKS = 200
needs_mosquitto = pytest.mark.skipif(
    find() is None, reason="mosquitto isn't installed: apt install mosquitto"
)


def kept() -> Counter[str]:
    """How many sessions, sockets and tasks this process keeps."""
    gc.collect()
    kinds = {Client: "sessions", socket.socket: "sockets", asyncio.Task: "tasks"}
    return Counter(
        name for found in gc.get_objects() for kind, name in kinds.items() if type(found) is kind
    )


@needs_mosquitto
def test_two_hundred_links_come_back_spread_out_and_leave_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker is killed again and again, and stays away a little longer each time."""
    names = [DeviceId.parse(f"dev-{i}") for i in range(LINKS)]
    waits: list[float] = []

    async def main() -> list[Counter[str]]:
        credentials = make_credentials(names)
        left: list[Counter[str]] = []
        async with Supervisor(tmp_path / "logs") as supervisor:
            home = tmp_path / "broker"
            fleet = FleetId.parse("demo")
            plan = await start_broker(
                supervisor, BrokerKind.MOSQUITTO, home, fleet, credentials, LINKS
            )
            links = [
                Link(
                    LinkConfig(plan.url, n, password=credentials[n], backoff_max_s=2.0),
                    subscriptions=[f"qflare/1/demo/{n}/down/#"],
                    rng=random.Random(n),
                )
                for n in names
            ]

            def on_event(event: Event) -> None:
                if isinstance(event, Disconnected) and event.retry_in_s:
                    waits.append(event.retry_in_s)

            tasks = [asyncio.create_task(link.run(on_event)) for link in links]
            for turn in range(1, 7):
                async with asyncio.timeout(60):
                    while any(link.counters.connects < turn for link in links):
                        await asyncio.sleep(0.05)
                await asyncio.sleep(0.5)  # what a return left behind is cleared away
                left.append(kept())
                supervisor.kill("broker", signal.SIGKILL)
                async with asyncio.timeout(60):
                    while any(link.connected for link in links):
                        await asyncio.sleep(0.01)
            for link in links:
                link.close()
            await asyncio.gather(*tasks)
        assert len(asyncio.all_tasks()) == 1
        return left

    left = asyncio.run(main())
    for name in ("sessions", "sockets", "tasks"):
        assert left[-1][name] <= left[0][name] + LINKS // 10  # some are just ending
    # Full jitter: the first waits fill their range evenly, so no tenth of it is crowded.
    firsts = [wait for wait in waits if wait <= 0.2]
    tenths = Counter(min(9, int(wait / 0.02)) for wait in firsts)
    assert len(tenths) == 10
    assert max(tenths.values()) < len(firsts) / 4
    assert not [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR]


class Fast(selectors.DefaultSelector):
    """Waits a small part of what it is told to; see `days`."""

    PACE = 5_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout and timeout / self.PACE)


class FastLoop(asyncio.SelectorEventLoop):
    """A loop whose hours are short; what it waits for outside of itself isn't."""

    def __init__(self) -> None:
        super().__init__(Fast())

    def time(self) -> float:
        return super().time() * Fast.PACE


def test_a_day_without_a_broker_is_a_page_of_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of it without names, one with nothing there, one where somebody hangs up."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
    logs.configure("edge", "json", tmp_path / "log", logging.DEBUG)
    real = socket.getaddrinfo
    lines, log, attempts = LinkLines(), logs.get_logger("device"), 0

    async def main() -> None:
        nonlocal attempts
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        rude = await asyncio.start_server(hang_up, "127.0.0.1", 0)

        def names(host: str, *rest: object, **more: object) -> object:
            hour = (loop.time() - began) / 3600
            if hour < 8:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            port = nobody if hour < 16 else rude.sockets[0].getsockname()[1]
            return real("127.0.0.1", port, type=socket.SOCK_STREAM)

        monkeypatch.setattr(socket, "getaddrinfo", names)

        def on_event(event: Event) -> None:
            nonlocal attempts
            assert isinstance(event, Disconnected)
            attempts += 1
            tell(log, lines.disconnected(event, loop.time()))

        # An answer that takes a real millisecond takes seconds of this loop.
        link = Link(LinkConfig("mqtt://broker.example", "d", connect_within_s=1e6))
        task = asyncio.create_task(link.run(on_event))
        await asyncio.sleep(86_400)
        link.close()
        await task
        rude.close()

    with asyncio.Runner(loop_factory=FastLoop) as runner:
        runner.run(main())
    logs.configure("test")
    said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert attempts > 100
    assert len(said) <= 20
    assert {line["trouble"] for line in said} == {"name", "unreachable", "no_broker"}


def test_no_log_holds_the_password_or_what_is_made_of_it(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    """The daemon's own log and standard error, at debug level, refused and let in."""

    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        config.write_text(config.read_text() + 'level = "debug"\n')
        right, wrong = broker.credentials[DEVICE], "wrong-and-secret"
        password = tmp_path / "password"
        password.write_text(wrong)
        async with desk(broker, lab) as it, device(config) as process:
            await until(lambda: count(config, "disconnected"))
            password.write_text(right)
            process.send_signal(signal.SIGHUP)  # a wait of half a minute at most ends now
            await until(lambda: count(config, "connected"))
            it.to_all(All.OFFER, slow_offer(lab, 1, 1))
            await until(lambda: it.updates)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
        said = (tmp_path / "edge.log").read_text() + (tmp_path / "stderr").read_text()
        assert '"trouble":"refused"' in said
        for secret in (right, wrong):
            assert secret not in said
            assert private_client_id(DEVICE, secret) not in said
        assert lab.key.to_seed().hex() not in said

    with_broker(body)


def test_libraries_say_no_password_at_any_level(
    with_broker: WithBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Our daemons let only their warnings through; a program around us may let all."""

    async def body(broker: RunningBroker) -> None:
        with caplog.at_level(logging.DEBUG):
            for password in (broker.credentials["dev-1"], "wrong-and-secret"):
                async with running(broker.config("dev-1", password=password)) as dev:
                    await dev.until_true(
                        lambda dev=dev: bool(
                            dev.of(Connected) or any(e.refused for e in dev.of(Disconnected))
                        )
                    )
                assert password not in caplog.text
                assert all(password not in repr(event) for event in dev.events)

    with_broker(body)


# Starts the daemon with a keep-alive time that a test can wait for.
IMPATIENT = """
import sys
from functools import partial
from edge_runtime import device
device.LinkConfig = partial(
    device.LinkConfig, keepalive_s=2, backoff_first_s=0.05, backoff_max_s=0.5
)
from edge_runtime.daemon import main
sys.exit(main())
"""


def test_an_update_that_a_dead_path_swallowed_is_sent_again_and_counted_once(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    """Half of it is on its way, acknowledged by nobody, when the network goes silent."""

    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        async with relay_to(broker.plan.url) as relay:
            config = write_device(tmp_path, lab, broker)
            near = f"mqtt://127.0.0.1:{relay.port}"
            config.write_text(config.read_text().replace(broker.plan.url, near))
            async with desk(broker, lab) as it:
                it.grant = False
                command = [sys.executable, "-c", IMPATIENT, "--config", str(config)]
                process = await asyncio.create_subprocess_exec(*command)
                it.to_all(All.OFFER, slow_offer(lab, 1, 1))
                await until(lambda: it.offers)
                relay.quota = 3000  # the grant, and less than one chunk
                it.grant = True
                transfer = it.offers[0].transfer
                it.down(
                    Down.GRANT,
                    Grant(transfer, tuple(range(it.offers[0].chunks))).to_bytes(),
                )
                await until(lambda: relay.silent)
                await until(lambda: count(config, "disconnected"))
                assert not it.updates
                relay.quota, relay.silent = None, False
                await until(lambda: it.updates)
                assert set(it.updates) == {transfer}
                process.terminate()
                assert await process.wait() == 0
        assert {offer.transfer for offer in it.offers} == {transfer}

    with_broker(body)

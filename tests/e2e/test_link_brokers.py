"""The link against real brokers: it connects, carries, survives, and refuses what can't be sent."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import aiomqtt
import pytest

from qflare.faults import LocalFault
from qflare.host.broker import BrokerKind, choose_broker, make_credentials, start_broker
from qflare.host.link import (
    Connected,
    Disconnected,
    Event,
    Link,
    LinkConfig,
    Message,
    Publication,
    Trouble,
    private_client_id,
)
from qflare.host.supervise import Supervisor
from qflare.names import DeviceId, FleetId

from .conftest import RunningBroker, WithBroker
from .link_watch import dying, running

pytestmark = pytest.mark.slow

BASE = "qflare/1/demo"
UP = (f"{BASE}/+/up/#", f"{BASE}/+/state")


def test_two_links_birth_will_and_protocol(with_broker: WithBroker) -> None:
    state = f"{BASE}/dev-1/state"

    async def body(broker: RunningBroker) -> None:
        async with running(broker.config("coordinator"), UP) as coordinator:
            await coordinator.until(Connected)
            device = running(
                broker.config("dev-1"),
                [f"{BASE}/dev-1/down/#"],
                will=Publication(state, b"lost", retain=True),
                birth=[Publication(state, b"ready", retain=True)],
            )
            async with device as dev:
                up = await dev.until(Connected)
                wanted = "5" if broker.kind is BrokerKind.MOSQUITTO else "3.1.1"
                assert (up.protocol, up.max_packet) == (wanted, 1024 * 1024)
                await coordinator.until_message(b"ready")
                assert dev.link.publish(f"{BASE}/dev-1/up/hello", b"\x00\xff")
                await coordinator.until_message(b"\x00\xff")
                assert coordinator.link.publish(f"{BASE}/dev-1/down/grant", b"yours")
                await dev.until_message(b"yours")
                assert await dev.link.drain(10)
            # It said goodbye, so the broker keeps the will to itself.
            assert (state, b"lost") not in coordinator.messages()
            assert dev.link.counters.lost_out == 0

    with_broker(body)


def test_the_will_is_said_when_a_device_dies(with_broker: WithBroker) -> None:
    state = f"{BASE}/dev-1/state"

    async def body(broker: RunningBroker) -> None:
        async with running(broker.config("coordinator"), UP) as coordinator:
            await coordinator.until(Connected)
            will = Publication(state, b"lost", retain=True)
            async with dying(broker.config("dev-1"), will=will) as dev:
                await dev.until(Connected)
            await coordinator.until_message(b"lost")

    with_broker(body)


def test_link_survives_kill_9_of_the_broker(with_broker: WithBroker) -> None:
    async def body(broker: RunningBroker) -> None:
        async with (
            running(broker.config("coordinator"), UP) as coordinator,
            running(broker.config("dev-1"), [f"{BASE}/dev-1/down/#"]) as dev,
        ):
            for turn in range(1, 4):
                await coordinator.until(Connected, turn)
                await dev.until(Connected, turn)
                up, down = b"up %d" % turn, b"down %d" % turn
                assert dev.link.publish(f"{BASE}/dev-1/up/hello", up)
                assert coordinator.link.publish(f"{BASE}/dev-1/down/grant", down)
                await coordinator.until_message(up)
                await dev.until_message(down)
                broker.supervisor.kill("broker", signal.SIGKILL)
                await dev.until(Disconnected, turn)
            assert dev.link.counters.connects >= 3

    with_broker(body)


def test_one_mebibyte_goes_through_and_more_is_refused_here(with_broker: WithBroker) -> None:
    topic = f"{BASE}/dev-1/up/offer"

    async def body(broker: RunningBroker) -> None:
        async with (
            running(broker.config("coordinator"), UP) as coordinator,
            running(broker.config("dev-1")) as dev,
        ):
            await coordinator.until(Connected)
            await dev.until(Connected)
            largest = dev.link.max_payload(topic)
            assert largest > 1_000_000
            assert dev.link.publish(topic, b"x" * largest)
            await coordinator.until_message(b"x" * largest)
            with pytest.raises(LocalFault, match="smaller chunks"):
                dev.link.publish(topic, b"x" * (largest + 1))
            assert dev.link.publish(topic, b"after")
            await coordinator.until_message(b"after")
            assert dev.link.counters.connects == 1

    with_broker(body)


def test_a_stranger_to_our_limits_is_cut_off_and_nobody_else(with_broker: WithBroker) -> None:
    async def body(broker: RunningBroker) -> None:
        host, port = broker.plan.url.removeprefix("mqtt://").split(":")
        async with running(broker.config("coordinator"), UP) as coordinator:
            await coordinator.until(Connected)
            raw = aiomqtt.Client(
                host,
                int(port),
                username="dev-2",
                password=broker.credentials["dev-2"],
                identifier="raw",
                timeout=2,
            )
            with pytest.raises(aiomqtt.MqttError):
                async with raw:
                    await raw.publish(f"{BASE}/dev-2/up/offer", b"y" * 8_000_000, qos=1)
            async with running(broker.config("dev-1")) as dev:
                await dev.until(Connected)
                assert dev.link.publish(f"{BASE}/dev-1/up/hello", b"still here")
                await coordinator.until_message(b"still here")
            assert all(not p.startswith(b"y") for _, p in coordinator.messages())
            assert coordinator.link.counters.connects == 1

    with_broker(body)


def test_wrong_password_waits_nearly_the_longest_time(with_broker: WithBroker) -> None:
    async def body(broker: RunningBroker) -> None:
        config = broker.config("dev-1", password="wrong", backoff_max_s=60.0)
        async with running(config) as dev:
            event = await dev.until(Disconnected)
            while not event.refused:  # MQTT 5 came first
                event = await dev.until(Disconnected, len(dev.events) + 1)
            assert event.trouble is Trouble.REFUSED
            assert 30 <= event.retry_in_s <= 60
            assert not dev.link.publish("a", b"b")

    with_broker(body)


def test_nobody_takes_over_a_session_by_its_client_id(with_broker: WithBroker) -> None:
    async def body(broker: RunningBroker) -> None:
        host, port = broker.plan.url.removeprefix("mqtt://").split(":")
        async with running(broker.config("dev-1"), [f"{BASE}/dev-1/down/#"]) as dev:
            await dev.until(Connected)
            ids = ["dev-1", "dev-1-raw", private_client_id("dev-1", "guess")]
            if broker.kind is BrokerKind.MOSQUITTO:  # here not even the right one helps
                ids.append(private_client_id("dev-1", broker.credentials["dev-1"]))
            for stolen in ids:
                for protocol in (aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311):
                    thief = aiomqtt.Client(
                        host,
                        int(port),
                        username="dev-2",
                        password=broker.credentials["dev-2"],
                        identifier=stolen,
                        protocol=protocol,
                        timeout=5,
                    )
                    with suppress(aiomqtt.MqttError):
                        async with thief:
                            await thief.publish(f"{BASE}/dev-2/up/hello", b"x", qos=1)
            async with running(broker.config("coordinator")) as coordinator:
                await coordinator.until(Connected)
                assert coordinator.link.publish(f"{BASE}/dev-1/down/grant", b"mine")
                await dev.until_message(b"mine")
            assert dev.link.counters.connects == 1

    with_broker(body)


def test_a_refused_topic_is_counted_where_the_broker_says_so(with_broker: WithBroker) -> None:
    async def body(broker: RunningBroker) -> None:
        async with running(broker.config("dev-1")) as dev:
            await dev.until(Connected)
            assert dev.link.publish(f"{BASE}/dev-2/up/hello", b"not mine")
            assert dev.link.publish(f"{BASE}/dev-1/up/hello", b"mine")
            assert await dev.link.drain(10)
        refused = 1 if broker.kind is BrokerKind.MOSQUITTO else 0  # 3.1.1 has no word for it
        assert dev.link.counters.refused_out == refused

    with_broker(body)


def test_a_full_queue_says_so_and_empties(with_broker: WithBroker) -> None:
    async def body(broker: RunningBroker) -> None:
        async with (
            running(broker.config("coordinator"), UP) as coordinator,
            running(broker.config("dev-1", queue_messages=20)) as dev,
        ):
            await coordinator.until(Connected)
            await dev.until(Connected)
            taken = [dev.link.publish(f"{BASE}/dev-1/up/ask", b"%d" % i) for i in range(30)]
            assert taken == [True] * 20 + [False] * 10
            assert dev.link.counters.queue_full == 10
            await coordinator.until_message(b"19")
            assert [p for _, p in coordinator.messages()] == [b"%d" % i for i in range(20)]
            assert await dev.link.drain(10)
            assert dev.link.publish(f"{BASE}/dev-1/up/ask", b"again")
            await coordinator.until_message(b"again")

    with_broker(body)


def test_what_a_handler_raises_ends_the_run(with_broker: WithBroker) -> None:
    def broken(event: Event) -> None:
        raise ZeroDivisionError

    async def body(broker: RunningBroker) -> None:
        with pytest.raises(ZeroDivisionError):
            await Link(broker.config("dev-1", protocol="3.1.1")).run(broken)

    with_broker(body)


def test_a_hundred_links_share_one_loop(tmp_path: Path, broker_kind: BrokerKind) -> None:
    fleet = FleetId.parse("demo")
    devices = [DeviceId.parse(f"dev-{i}") for i in range(100)]
    chunk = bytes(16 * 1024)

    async def main() -> None:
        credentials = make_credentials([*devices, "coordinator"])
        async with asyncio.timeout(100), Supervisor(tmp_path / "logs") as supervisor:
            plan = await start_broker(
                supervisor,
                broker_kind,
                tmp_path / "broker",
                fleet,
                credentials,
                max_devices=100,
            )

            def config(name: str) -> LinkConfig:
                return LinkConfig(plan.url, name, password=credentials[name], backoff_max_s=1.0)

            links = {name: Link(config(name)) for name in devices}
            seen: dict[str, int] = {}
            finished = asyncio.Event()

            def on_up(event: Event) -> None:
                if isinstance(event, Message) and "/up/" in event.topic:
                    seen[event.topic] = seen.get(event.topic, 0) + 1
                    if len(seen) == 100 and min(seen.values()) >= 4:
                        finished.set()

            coordinator = Link(config("coordinator"), subscriptions=UP)
            tasks = [asyncio.create_task(coordinator.run(on_up))]
            while not coordinator.connected:
                await asyncio.sleep(0.02)

            for name, link in links.items():

                def on_event(event: Event, name: str = name, link: Link = link) -> None:
                    if isinstance(event, Connected):
                        for _ in range(4):
                            assert link.publish(f"{BASE}/{name}/up/ask", chunk)

                tasks.append(asyncio.create_task(link.run(on_event)))
            await finished.wait()
            for link in (coordinator, *links.values()):
                link.close()
            await asyncio.gather(*tasks)

    asyncio.run(main())


def test_auto_finds_a_broker_here() -> None:
    assert choose_broker() in BrokerKind

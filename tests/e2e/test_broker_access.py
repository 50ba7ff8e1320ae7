"""Every principal against every topic, on every broker: written and received as the rules say."""

import asyncio
import socket
from contextlib import AsyncExitStack, suppress

import aiomqtt
import pytest

from qflare import topics
from qflare.host.broker import BrokerKind
from qflare.host.link import private_client_id
from qflare.names import Digest

from .conftest import (
    DEVICES,
    FLEET,
    PRINCIPALS,
    TICKETS,
    TOKENS,
    RunningBroker,
    WithBroker,
)

pytestmark = pytest.mark.slow

DIGEST = Digest.of(b"some transfer")
BASE = f"qflare/1/{FLEET}"
EVERYBODY = (*PRINCIPALS, *TICKETS)


def every_topic() -> list[str]:
    """One topic of each kind and for each device, and some that are nobody's."""
    ours: list[topics.Topic] = [topics.CoordinatorState(FLEET)]
    for device in DEVICES[:2]:
        ours += [topics.UpTopic(FLEET, device, up) for up in topics.Up]
        ours += [topics.DownTopic(FLEET, device, down) for down in topics.Down]
        ours.append(topics.UpChunk(FLEET, device, DIGEST, 0))
        ours.append(topics.DownChunk(FLEET, device, DIGEST, 7))
        ours.append(topics.StateTopic(FLEET, device))
    ours += [topics.AllTopic(FLEET, kind) for kind in topics.All]
    ours.append(topics.AllChunk(FLEET, DIGEST, 3))
    ours.append(topics.CoordinatorMetric(FLEET, "accuracy"))
    for token in TOKENS:
        ours += [topics.EnrolUp(FLEET, token), topics.EnrolDown(FLEET, token)]
    strange = [
        f"{BASE}/enrol/{TICKETS[0]}",
        f"{BASE}/enrol/{TICKETS[0]}/up/hello",
        f"{BASE}/enrol/{TICKETS[0]}/state",
        f"{BASE}/enrol/up",
        f"{BASE}/enrol/up/hello",
        f"{BASE}/enrol/down/grant",
        f"{BASE}/enrol/state",
        f"{BASE}/{TICKETS[0]}/up/hello",
        f"{BASE}/{TICKETS[0]}/down/grant",
        f"{BASE}/{TICKETS[0]}/state",
        f"{BASE}/dashboard/up/hello",
        f"{BASE}/dashboard/state",
        f"{BASE}/dashboard/down/grant",
        f"{BASE}/coordinator/up/hello",
        f"{BASE}/coordinator/down/grant",
        f"{BASE}/dev-1",
        f"{BASE}/dev-1/elsewhere",
        "qflare/1/other/dev-1/up/hello",
        "qflare/2/demo/dev-1/up/hello",
        "qflare.1.demo.dev-2.up.hello",
        "elsewhere",
        "$SYS/x",
        "$MQTT/sub/x",
    ]
    return [*map(topics.build, ours), *strange]


FILTERS = (
    "#",
    "+/#",
    "qflare/#",
    f"{BASE}/#",
    f"{BASE}/+/up/#",
    f"{BASE}/+/down/#",
    f"{BASE}/+/state",
    f"{BASE}/all/#",
    f"{BASE}/coordinator/#",
    f"{BASE}/enrol/#",
    f"{BASE}/enrol/+/up",
    f"{BASE}/enrol/+/down",
    "$SYS/#",
    "$MQTT/#",
    "$MQTT/sub/#",
    "$JS/#",
)


def access(principal: str) -> topics.Access:
    table = topics.rules(FLEET)
    if principal in TICKETS:
        return table.for_token(principal)
    for device in DEVICES:
        if principal == device:
            return table.device.for_device(device)
    return table.coordinator if principal == "coordinator" else table.dashboard


def permitted(filters: tuple[str, ...], topic: str) -> bool:
    return any(topics.matches(rule, topic) for rule in filters)


def raw_client(
    broker: RunningBroker, principal: str, *, client_id: str = "", will: aiomqtt.Will | None = None
) -> aiomqtt.Client:
    """A client of somebody who doesn't use our link, and doesn't ask what is permitted."""
    host, port = broker.url(principal).removeprefix("mqtt://").split(":")
    password = broker.credentials[principal]
    return aiomqtt.Client(
        host,
        int(port),
        username=principal,
        password=password,
        identifier=client_id or private_client_id(principal, password) + "-raw",
        protocol=aiomqtt.ProtocolVersion.V311,
        will=will,
        timeout=5,
    )


async def subscribe_to_anything(client: aiomqtt.Client, names: list[str]) -> None:
    for qos in (0, 1):
        for name in names:
            with suppress(aiomqtt.MqttError):
                await client.subscribe(name, qos=qos, timeout=2)


def test_every_principal_against_every_topic(with_tickets: WithBroker) -> None:
    names = every_topic()
    received: set[tuple[str, str, str]] = set()  # reader, writer, topic

    async def listen(reader: str, client: aiomqtt.Client) -> None:
        with suppress(aiomqtt.MqttError):
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                writer, _, meant = message.payload.decode(errors="replace").partition("|")
                # A message that shows under another name than it was sent to would be a leak too.
                where = str(message.topic)
                received.add((reader, writer, where if where == meant else f"{meant} as {where}"))

    async def write(writer: str, broker: RunningBroker) -> None:
        for qos in (0, 1):
            for name in names:
                # A connection for each: a broker may cut off whoever tries what isn't allowed.
                with suppress(aiomqtt.MqttError):
                    async with raw_client(broker, writer, client_id=f"{writer}-w") as client:
                        await client.publish(name, f"{writer}|{name}", qos=qos, timeout=2)

    async def body(broker: RunningBroker) -> None:
        expected = {
            (reader, writer, name)
            for reader in EVERYBODY
            for writer in EVERYBODY
            for name in names
            if permitted(access(writer).write, name) and permitted(access(reader).read, name)
        }
        tolerated = set()
        if broker.kind is BrokerKind.MOSQUITTO:  # see qflare.host.broker.mosquitto.acl
            tolerated = {
                ("coordinator", "coordinator", name)
                for name in names
                if name.startswith((f"{BASE}/all/", f"{BASE}/coordinator/"))
            }
        async with AsyncExitStack() as stack:
            listeners = []
            clients = {}
            for principal in EVERYBODY:
                client = await stack.enter_async_context(raw_client(broker, principal))
                own = list(access(principal).read)
                await subscribe_to_anything(client, [*FILTERS, *names, *own])
                clients[principal] = client
                listeners.append(asyncio.create_task(listen(principal, client)))
            if broker.kind is BrokerKind.MOSQUITTO:
                # It ties the client id to the user: a second connection would end the first.
                for principal, client in clients.items():
                    for qos in (0, 1):
                        for name in names:
                            await client.publish(name, f"{principal}|{name}", qos=qos, timeout=5)
            else:
                await asyncio.gather(*(write(principal, broker) for principal in EVERYBODY))
            for _ in range(150):
                if expected <= received:
                    break
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)  # and whatever shouldn't come has had its time as well
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
        assert expected - received == set()
        assert received - expected - tolerated == set()

    with_tickets(body)


def test_a_will_obeys_the_same_rules(with_broker: WithBroker) -> None:
    async def body(broker: RunningBroker) -> None:
        seen: list[tuple[str, bytes]] = []
        async with raw_client(broker, "coordinator") as coordinator:
            await coordinator.subscribe(f"{BASE}/+/state", qos=1)

            async def listen() -> None:
                async for message in coordinator.messages:
                    assert isinstance(message.payload, bytes)
                    seen.append((str(message.topic), message.payload))

            listener = asyncio.create_task(listen())
            for victim, said in ((DEVICES[0], b"forged"), (DEVICES[1], b"honest")):
                will = aiomqtt.Will(f"{BASE}/{victim}/state", said, qos=1)
                client = raw_client(broker, DEVICES[1], will=will)
                await client.__aenter__()
                # The peer goes away without a DISCONNECT.
                sock = client._client.socket()
                assert isinstance(sock, socket.socket)
                sock.shutdown(socket.SHUT_RDWR)
                for _ in range(100):
                    if client._disconnected.done():
                        client._disconnected.exception()
                        break
                    await asyncio.sleep(0.05)
            for _ in range(100):
                if (f"{BASE}/{DEVICES[1]}/state", b"honest") in seen:
                    break
                await asyncio.sleep(0.05)
            listener.cancel()
        assert seen == [(f"{BASE}/{DEVICES[1]}/state", b"honest")]

    with_broker(body)


def test_wrong_password_no_password_and_unknown_user_are_refused(with_broker: WithBroker) -> None:
    async def body(broker: RunningBroker) -> None:
        host, port = broker.plan.url.removeprefix("mqtt://").split(":")
        right = broker.credentials["dev-1"]
        attempts = [
            ("dev-1", broker.credentials["dev-2"]),
            ("dev-1", right[:-1]),
            ("dev-1", ""),
            ("stranger", right),
            ("DEV-1", right),
            (None, None),
        ]
        for user, password in attempts:
            client = aiomqtt.Client(
                host, int(port), username=user, password=password, identifier="x", timeout=5
            )
            with pytest.raises(aiomqtt.MqttError):
                await client.__aenter__()
            client._client.disconnect()

    with_broker(body)


def test_a_ticket_s_account_opens_no_other_door(with_tickets: WithBroker) -> None:
    """Where accounts are apart, a ticket isn't let in where devices are, nor a device there."""

    async def body(broker: RunningBroker) -> None:
        if broker.kind is not BrokerKind.MOSQUITTO:
            return  # nats-server has one port, and each user's own permissions
        for url, who in ((broker.plan.url, TICKETS[0]), (broker.plan.enrol_url, "dev-1")):
            host, port = url.removeprefix("mqtt://").split(":")
            client = aiomqtt.Client(
                host,
                int(port),
                username=who,
                password=broker.credentials[who],
                identifier="x",
                timeout=5,
            )
            with pytest.raises(aiomqtt.MqttError):
                await client.__aenter__()
            client._client.disconnect()

    with_tickets(body)

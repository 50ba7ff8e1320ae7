"""Samples from topics of a broker nearby: the real broker, which also goes away and comes back."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.sources.drivers import make_driver
from edge_runtime.sources.inbox import Inbox
from edge_runtime.sources.settings import (
    Channel,
    DataSection,
    FormatSection,
    LabelSection,
    MqttSection,
)
from qflare.host.broker import mosquitto
from tests.source_kit import wait_for

pytestmark = pytest.mark.slow


class Broker:
    """mosquitto without passwords, as it may run on the device itself."""

    def __init__(self, folder: Path) -> None:
        found = mosquitto.find()
        if found is None:
            pytest.skip("mosquitto is not installed")
        self._command = [str(found), "-c", str(folder / "mosquitto.conf")]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n"
        )
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, stderr=subprocess.DEVNULL)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    found = Broker(tmp_path)
    yield found
    found.end()


def publish(port: int, *messages: tuple[str, bytes, bool]) -> None:
    import paho.mqtt.client as paho

    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for topic, payload, retain in messages:
        client.publish(topic, payload, 1, retain).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def test_messages_are_samples(tmp_path: Path, broker: Broker) -> None:
    settings = DataSection(
        tmp_path / "ring",
        "mqtt",
        channels=(Channel("temperature", "°C"), Channel("x", field="imu.x")),
        format=FormatSection("json"),
        label=LabelSection("field", ("state",)),
        mqtt=MqttSection(f"mqtt://127.0.0.1:{broker.port}", ("room/+/sensor",)),
    )
    wait_for(lambda: _answers(broker.port))
    publish(broker.port, ("room/1/sensor", b'{"temperature": 99, "imu": {"x": 9}}', True))
    driver, inbox, stop = make_driver(settings), Inbox(1000), threading.Event()
    thread = threading.Thread(target=driver.run, args=(inbox, stop))
    thread.start()
    try:
        wait_for(lambda: driver.status.state == "connected")
        publish(
            broker.port,
            ("room/1/sensor", b'{"temperature": 20.5, "imu": {"x": 1}, "state": "on"}', False),
            ("room/2/sensor", b"garbage", False),
            ("room/2/sensor", b"x" * 70_000, False),
            ("room/2/else", b'{"temperature": 1, "imu": {"x": 1}}', False),
            ("room/2/sensor", b'{"temperature": 21, "imu": {"x": 2}}', False),
        )
        wait_for(lambda: inbox.taken == 2)
        first, second = (arrived.record for arrived in inbox.take(0))
        assert (first.values, first.label) == ((20.5, 1.0), "on")
        assert (second.values, second.label, second.broken) == ((21.0, 2.0), "", True)
        broker.end()
        wait_for(lambda: not driver.status.ok)
        broker.process = broker.start()
        wait_for(lambda: driver.status.ok, 60)
        publish(broker.port, ("room/3/sensor", b'{"temperature": 3, "imu": {"x": 3}}', False))
        wait_for(lambda: inbox.taken == 3)
        assert inbox.take(0)[0].record.broken
        counts = driver.status.counts
        assert (counts["unreadable"], counts["oversize"]) == (1, 1)
        assert counts["retained"] >= 1
    finally:
        stop.set()
        thread.join(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

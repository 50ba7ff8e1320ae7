"""The link over TLS and IPv6, with a real broker: whom it trusts, and before the clock is set."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qflare.host import link as link_module
from qflare.host.broker import pick_port
from qflare.host.broker.mosquitto import find
from qflare.host.link import Connected, Disconnected, Event, Link, LinkConfig, Trouble

from .authority import Authority

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find() is None, reason="mosquitto isn't installed: apt install mosquitto"),
]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority.make("the fleet's CA")
    made.save(tmp_path / "ca.pem")
    return made


class Broker:
    """mosquitto with TLS on one address, for anybody."""

    def __init__(self, directory: Path, address: str) -> None:
        self.port = pick_port()
        config = directory / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} {address}\nallow_anonymous true\nuser root\n"
            f"certfile {directory}/server.pem\nkeyfile {directory}/server.key\n"
        )
        self._process = subprocess.Popen(
            [find() or "", "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def stopping() -> Iterator[list[Broker]]:
    brokers: list[Broker] = []
    yield brokers
    for broker in brokers:
        broker.stop()


def first_outcome(config: LinkConfig, stop_at: int = 1) -> Event:
    """Connected, or the `stop_at`-th disconnection that isn't a refused TCP connection."""

    async def main() -> Event:
        link = Link(config)
        found: list[Event] = []

        def on_event(event: Event) -> None:
            starting = isinstance(event, Disconnected) and "refused" in event.reason
            if not starting:
                found.append(event)
            if isinstance(event, Connected) or len(found) >= stop_at:
                link.close()

        await asyncio.wait_for(link.run(on_event), 30)
        return found[-1]

    return asyncio.run(main())


@pytest.mark.parametrize(("address", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_it_connects_to_whom_the_ca_vouches_for(
    tmp_path: Path, authority: Authority, stopping: list[Broker], address: str, host: str
) -> None:
    authority.issue(tmp_path, address, (-1, 1))
    stopping.append(Broker(tmp_path, address))
    url = f"mqtts://{host}:{stopping[0].port}"
    outcome = first_outcome(LinkConfig(url, "d", ca_file=tmp_path / "ca.pem", backoff_first_s=0.05))
    assert isinstance(outcome, Connected)
    assert outcome.dates_checked


def test_another_ca_and_another_name_are_refused(
    tmp_path: Path, authority: Authority, stopping: list[Broker]
) -> None:
    authority.issue(tmp_path, "127.0.0.9", (-1, 1))
    stopping.append(Broker(tmp_path, "127.0.0.1"))
    url = f"mqtts://127.0.0.1:{stopping[0].port}"
    wrong_name = first_outcome(LinkConfig(url, "d", ca_file=tmp_path / "ca.pem"))
    assert isinstance(wrong_name, Disconnected)
    assert "not valid for '127.0.0.1'" in wrong_name.reason
    assert wrong_name.trouble is Trouble.CERTIFICATE
    other = tmp_path / "other.pem"
    Authority.make("somebody else").save(other)
    wrong_ca = first_outcome(LinkConfig(url, "d", ca_file=other))
    assert isinstance(wrong_ca, Disconnected)
    assert "CERTIFICATE_VERIFY_FAILED" in wrong_ca.reason
    assert wrong_ca.trouble is Trouble.CERTIFICATE


@pytest.mark.parametrize("days", [(-9, -1), (1, 9)])
def test_dates_count_as_soon_as_the_clock_is_set(
    tmp_path: Path,
    authority: Authority,
    stopping: list[Broker],
    monkeypatch: pytest.MonkeyPatch,
    days: tuple[int, int],
) -> None:
    """Outdated, or not valid yet: wrong when we know the time, passed over while we don't."""
    authority.issue(tmp_path, "127.0.0.1", days)
    stopping.append(Broker(tmp_path, "127.0.0.1"))
    url = f"mqtts://127.0.0.1:{stopping[0].port}"
    config = LinkConfig(url, "d", ca_file=tmp_path / "ca.pem", backoff_first_s=0.05)
    refused = first_outcome(config)
    assert isinstance(refused, Disconnected)
    assert "CERTIFICATE_VERIFY_FAILED" in refused.reason
    assert refused.trouble is Trouble.CLOCK

    monkeypatch.setattr(link_module, "clock_is_set", lambda: False)
    monkeypatch.setattr(link_module, "_CLOCK_LOOK_S", 0.05)

    async def main() -> list[Event]:
        link, events = Link(config), []

        def on_event(event: Event) -> None:
            events.append(event)
            if isinstance(event, Connected):
                assert not event.dates_checked
                monkeypatch.setattr(link_module, "clock_is_set", lambda: True)
            elif len(events) > 1 and "VERIFY_FAILED" in event.reason:
                link.close()

        await asyncio.wait_for(link.run(on_event), 30)
        return events

    connected, moved, refused_again = asyncio.run(main())[:3]
    assert isinstance(connected, Connected)
    assert isinstance(moved, Disconnected)
    assert "the clock is set now" in moved.reason
    assert isinstance(refused_again, Disconnected)


def test_a_ca_file_without_certificates_says_so(tmp_path: Path) -> None:
    from qflare.faults import LocalFault

    (tmp_path / "empty.pem").write_text("")
    for name in ("empty.pem", "none.pem"):
        link = Link(LinkConfig("mqtts://127.0.0.1:9", "d", ca_file=tmp_path / name))
        with pytest.raises(LocalFault, match="no CA certificates"):
            asyncio.run(link.run(lambda _event: None))

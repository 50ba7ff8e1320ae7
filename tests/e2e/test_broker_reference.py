"""The published mosquitto configuration: TLS, two listeners, accounts kept by the coordinator."""

import asyncio
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.enrol import edge_tables, enrol
from qflare.host.broker import BrokerKind, BrokerPlan, mosquitto, pick_port
from qflare.host.link import Connected, Event, Link, LinkConfig
from tests.e2e.authority import Authority
from tests.e2e.test_enrolment import coordinator, ticket
from tests.enrol_kit import Home, new_world
from tests.unit.coordinator_rig import FLEET

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("e2e"),
    pytest.mark.skipif(
        mosquitto.find() is None, reason="mosquitto isn't installed: apt install mosquitto"
    ),
]
REFERENCE = Path(__file__).parents[2] / "firmware_config" / "broker" / "mosquitto"
_WORLD = new_world()


def write(here: Path) -> tuple[BrokerPlan, str]:
    """The reference with other paths, ports and fleet; the plan, and the coordinator's password."""
    (here / "etc").mkdir(parents=True)
    (here / "accounts").mkdir()
    authority = Authority.make("the fleet's CA")
    authority.issue(here / "etc", "127.0.0.1", (-1, 30))
    (here / "etc" / "server.pem").rename(here / "etc" / "broker.crt")
    (here / "etc" / "server.key").rename(here / "etc" / "broker.key")
    authority.save(here / "ca.pem")
    for name in ("acl", "acl-enrolment"):
        text = (REFERENCE / name).read_text().replace("myfleet", FLEET)
        (here / "etc" / name).write_text(text)
    password = secrets.token_urlsafe(32)
    line = f"coordinator:{mosquitto.hash_password(password)}\n"
    (here / "accounts" / "devices").write_text(line)
    (here / "accounts" / "tickets").touch()
    device_port, ticket_port = pick_port(), pick_port()
    text = (REFERENCE / "qflare.conf").read_text()
    for found, instead in (
        ("/etc/mosquitto/qflare/", f"{here}/etc/"),
        ("/var/lib/qflare-broker/", f"{here}/accounts/"),
        ("listener 8883", f"listener {device_port} 127.0.0.1"),
        ("listener 8884", f"listener {ticket_port} 127.0.0.1"),
    ):
        assert found in text
        text = text.replace(found, instead)
    debian = f"user root\npid_file {here}/pid\npersistence true\npersistence_location {here}/\n"
    (here / "mosquitto.conf").write_text(debian + text)
    plan = BrokerPlan(
        kind=BrokerKind.MOSQUITTO,
        command=(mosquitto.find() or "", "-c", str(here / "mosquitto.conf")),
        url=f"mqtts://127.0.0.1:{device_port}",
        config_dir=here,
        enrol_url=f"mqtts://127.0.0.1:{ticket_port}",
        device_accounts=here / "accounts" / "devices",
        token_accounts=here / "accounts" / "tickets",
        pid_file=here / "pid",
    )
    return plan, password


async def connects(config: LinkConfig) -> bool:
    here = asyncio.Event()

    def hear(event: Event) -> None:
        if isinstance(event, Connected):
            here.set()

    link = Link(config)
    task = asyncio.create_task(link.run(hear))
    try:
        await asyncio.wait_for(here.wait(), 10)
    except TimeoutError:
        return False
    finally:
        link.close()
        await task
    return True


async def life(directory: Path) -> None:
    plan, password = write(directory / "b")
    home = Home(directory / "co", _WORLD)
    ca = directory / "b" / "ca.pem"
    home.write(plan, password, broker=f'ca_file = "{ca}"', more=f'broker_ca = "{ca}"\n')
    log = (directory / "log").open("wb")
    process = subprocess.Popen(plan.command, stderr=log)
    try:
        async with coordinator(home):
            path = await ticket(home, "--name", "pump-7")
            enrolled = await enrol(
                path.read_bytes(), directory / "d", "rpi4", "abc123", print, silence_s=40
            )
            assert enrolled.private_ca
            assert (directory / "d" / "broker-ca.pem").read_bytes() == ca.read_bytes()
            broker: dict[str, Any] = edge_tables(enrolled)["broker"]
            config = LinkConfig(
                broker["url"],
                enrolled.name,
                password_file=directory / "d" / broker["password_file"],
                ca_file=directory / "d" / broker["ca_file"],
            )
            assert await connects(config)
    finally:
        process.kill()
        process.wait()
        log.close()


def test_a_device_joins_over_tls_with_a_private_ca(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(life(tmp_path), 90))

"""Broker configurations are generated from the access rules, and keep what they hold private."""

import base64
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from qflare.faults import LocalFault
from qflare.host import broker
from qflare.host.broker import BrokerKind, mosquitto, nats
from qflare.names import FleetId
from qflare.topics import rules

FLEET = FleetId.parse("demo")
REFERENCE = Path(__file__).parents[2] / "firmware_config" / "broker"


@pytest.mark.parametrize("kind", list(BrokerKind))
def test_everything_written_is_ours_alone(kind: BrokerKind, tmp_path: Path) -> None:
    credentials = broker.make_credentials(["dev-1", "coordinator", "dashboard"])
    try:
        plan = broker.write_broker(kind, tmp_path / "b", 12_345, FLEET, credentials, 10)
    except LocalFault as fault:
        pytest.skip(str(fault))
    assert plan.url == "mqtt://127.0.0.1:12345"
    assert stat.S_IMODE(plan.config_dir.stat().st_mode) == 0o700
    for path in plan.config_dir.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    paths = broker.write_credentials(tmp_path / "c", credentials)
    assert {name: path.read_text() for name, path in paths.items()} == credentials
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths.values())
    if kind is BrokerKind.MOSQUITTO:
        assert not any(
            pw in (plan.config_dir / "passwd").read_text() for pw in credentials.values()
        )


def test_the_mosquitto_hash_is_the_one_of_its_own_tool(tmp_path: Path) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    path = tmp_path / "passwd"
    path.touch(mode=0o600)
    subprocess.run([tool, "-b", str(path), "dev-1", "correct horse"], check=True)
    line = path.read_text().strip()
    _, seven, _, salt, _ = line.removeprefix("dev-1:").split("$")
    assert seven == "7"
    assert line == "dev-1:" + mosquitto.hash_password("correct horse", base64.b64decode(salt))


def test_a_thousand_devices_are_configured_at_once(tmp_path: Path) -> None:
    credentials = broker.make_credentials([f"dev-{i}" for i in range(1000)])
    assert len(set(credentials.values())) == 1000
    text = nats.accounts(FLEET, credentials)
    assert text.count('"user"') == 1000
    assert len({mosquitto.hash_password(pw) for pw in credentials.values()}) == 1000


def test_a_nats_user_gets_no_more_than_the_rules() -> None:
    table = rules(FLEET)
    dashboard = nats.user("dashboard", "x", table.dashboard)
    assert dashboard["permissions"] == {
        "publish": {"deny": [">"]},
        "subscribe": {
            "allow": [
                "qflare.1.demo.*.state",
                "qflare.1.demo.coordinator.>",
                "qflare.1.demo.coordinator",
                "qflare.1.demo.all.>",
                "qflare.1.demo.all",
                "$MQTT.sub.>",
            ]
        },
    }
    assert nats.subjects(["a/+/up/#"]) == ["a.*.up.>", "a.*.up"]


def test_ports_are_free_and_outside_the_range_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {broker.pick_port() for _ in range(20)}
    assert len(ports) > 1
    for port in ports:
        assert port < lowest
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_no_such_broker() -> None:
    with pytest.raises(LocalFault, match="choose auto, mosquitto, nats"):
        broker.choose_broker("hive")


def test_nothing_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosquitto, "find", lambda: None)
    monkeypatch.setattr(nats, "find", lambda: None)
    for prefer in ("auto", "mosquitto", "nats"):
        with pytest.raises(LocalFault, match="install"):
            broker.choose_broker(prefer)


def test_the_access_file_for_production_is_the_generated_one() -> None:
    mine = FleetId.parse("myfleet")
    assert (REFERENCE / "mosquitto" / "acl").read_text() == mosquitto.acl(mine)
    enrolment = (REFERENCE / "mosquitto" / "acl-enrolment").read_text()
    assert enrolment == mosquitto.enrolment_acl(mine)

"""From tickets to a released model: devices that joined by themselves train a round together.

Broker, enclave, coordinator and devices are the real processes, each started as in the field; only
the owner's offline work (keys, device CA, manifest) is done by the simulation's.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.enrol import edge_tables, enrol
from qflare.crypto.suites import DEFAULT
from qflare.host.broker import BrokerKind, make_credentials, start_broker, write_credentials
from qflare.host.supervise import ChildSpec, Supervisor
from qflare.names import FleetId
from qflare.simulate import data, provision
from qflare.simulate.children import ENVIRONMENT, measure, python
from qflare.simulate.options import bounds, complete, policy
from tests.enrol_kit import COMMAND, enrolment

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e")]
DEVICES = 3


def options() -> Any:
    asked = {"model": "watch_cnn", "dataset": None, "devices": DEVICES, "rounds": 1}
    return complete(asked)


def operator(config: Path, *words: str) -> Any:
    command = [*COMMAND, *words, "--config", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def export(config: Path) -> Any:
    command = [sys.executable, "-m", "coordinator.daemon", "--config", str(config), "export"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def released(config: Path) -> bool:
    return any(entry["published_at"] for entry in export(config)["rounds"])


async def one_round(kind: BrokerKind, home: Path) -> Any:
    fleet, asked = FleetId.parse("field"), options()
    made = policy(asked)
    owner = provision.Owner.make(fleet, DEFAULT)
    site = provision.Site(home / "state", home / "enclave.sock")
    credentials = make_credentials(["coordinator", "dashboard"])
    passwords = write_credentials(home / "passwords", credentials)
    async with Supervisor(home / "logs") as supervisor:
        plan = await start_broker(
            supervisor, kind, home / "broker", fleet, credentials, 10, enrolment=True
        )
        enclave = provision.enclave(site, owner, asked)
        config = provision.coordinator(
            site,
            owner,
            asked,
            made,
            bounds(made),
            asked.model_file,
            await measure(),
            {"url": plan.url, "password_file": passwords["coordinator"]},
        )
        here = config.parent
        for name, content in (("ca.seed", owner.ca_key.to_seed()), ("ca.der", owner.ca)):
            (here / name).write_bytes(content)
            (here / name).chmod(0o600)
        config.write_text(config.read_text() + enrolment(here, plan))
        for name, module, path in (
            ("enclave", "enclave.server", enclave),
            ("coordinator", "coordinator.daemon", config),
        ):
            command = python(module, "--config", str(path))
            await supervisor.start(ChildSpec(name, command, ENVIRONMENT))
        out = str(home / "tickets")
        tickets = await asyncio.to_thread(
            operator, config, "token", "new", "--count", str(DEVICES), "--out", out
        )
        shares = data.loader(asked.dataset)(home / "cache", DEVICES, asked.seed)
        for i, (ticket, share) in enumerate(zip(tickets, shares, strict=True)):
            await join(home / f"board-{i}", Path(ticket["file"]), i, share, supervisor)
        async with asyncio.timeout(90):
            while not await asyncio.to_thread(released, config):
                await asyncio.sleep(0.5)
        entries = await asyncio.to_thread(operator, config, "token", "list")
        return await asyncio.to_thread(export, config), entries


async def join(here: Path, ticket: Path, number: int, share: Any, supervisor: Supervisor) -> None:
    serial = f"1000000000{number:06d}"
    enrolled = await enrol(ticket.read_bytes(), here, "rpi4", serial, print, silence_s=40)
    share.write(here / "samples.npz")
    tables = edge_tables(enrolled)
    tables["device"]["state_dir"] = "state"
    tables["data"] = {"kind": "npz", "path": "samples.npz"}
    tables["gates"] = {"enabled": False}  # the machine that tests is busy
    provision.write_toml(here / "edge.toml", tables)
    command = python("edge_runtime.daemon", "--config", str(here / "edge.toml"))
    await supervisor.start(ChildSpec(f"edge-{number}", command, ENVIRONMENT))


def test_devices_that_joined_by_tickets_train_a_round(
    broker_kind: BrokerKind, tmp_path: Path
) -> None:
    exported, entries = asyncio.run(one_round(broker_kind, tmp_path))
    (only,) = exported["rounds"]
    assert (only["status"], only["admitted"]) == ("released", DEVICES)
    assert not only["refused"]
    assert {entry["state"] for entry in entries} == {"confirmed"}
    assert sorted(entry["device"] for entry in entries) == [
        f"rpi4-0000000{i}" for i in range(DEVICES)
    ]

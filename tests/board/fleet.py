"""A fleet on this machine that an emulated board can join: the real broker and daemons."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.enrol import edge_tables, enrol
from qflare.crypto.suites import DEFAULT
from qflare.host.broker import BrokerKind, make_credentials, start_broker, write_credentials
from qflare.host.supervise import ChildSpec, Supervisor
from qflare.names import FleetId
from qflare.simulate import data, provision
from qflare.simulate.children import ENVIRONMENT, measure, python
from qflare.simulate.options import bounds, complete, policy
from tests.enrol_kit import COMMAND, enrolment

HOST = "10.0.2.2"  # where QEMU's user network has this machine's loopback


@dataclass
class Fleet:
    """What runs, and where its files are."""

    home: Path
    config: Path
    shares: Any

    def operator(self, *words: str) -> Any:
        """An operator's command with --json; its output."""
        command = [*COMMAND, *words, "--config", str(self.config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout)

    def rounds(self) -> list[dict[str, Any]]:
        """Every round so far."""
        command = [sys.executable, "-m", "coordinator.daemon", "--config", str(self.config)]
        done = subprocess.run([*command, "export"], capture_output=True, check=True, timeout=120)
        found: list[dict[str, Any]] = json.loads(done.stdout)["rounds"]
        return found


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[Fleet]:
    """Broker, enclave, coordinator, and one device of this machine, which trains alone if need be.

    Devices are told of the broker twice: as this machine sees it, and as a board does.
    """
    fleet = FleetId.parse("field")
    asked: Any = complete({"model": "watch_cnn", "dataset": None, "devices": 2, "rounds": 1})
    made = policy(asked)
    owner = provision.Owner.make(fleet, DEFAULT)
    site = provision.Site(home / "state", home / "enclave.sock")
    credentials = make_credentials(["coordinator", "dashboard"])
    passwords = write_credentials(home / "passwords", credentials)
    async with Supervisor(home / "logs") as supervisor:
        plan = await start_broker(
            supervisor,
            BrokerKind.MOSQUITTO,
            home / "broker",
            fleet,
            credentials,
            10,
            enrolment=True,
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
        run = "[run]\nrounds = 0\ncohort = 0\nexpect_devices = 1\nwait_s = 60\npause_s = 2\n"
        text = re.sub(r"\[run\]\n(\w+ = .*\n)+", run, config.read_text())
        asked_for = re.sub(
            r'brokers = \["(mqtt://)127\.0\.0\.1(:\d+)"\]',
            rf'brokers = ["\g<1>127.0.0.1\g<2>", "\g<1>{HOST}\g<2>"]',
            enrolment(here, plan),
        )
        config.write_text(text + asked_for)
        for name, module, path in (
            ("enclave", "enclave.server", enclave),
            ("coordinator", "coordinator.daemon", config),
        ):
            command = python(module, "--config", str(path))
            await supervisor.start(ChildSpec(name, command, ENVIRONMENT))
        shares = data.loader(asked.dataset)(home / "cache", 2, asked.seed)
        it = Fleet(home, config, shares)
        await _local_device(it, supervisor)
        yield it


async def _local_device(it: Fleet, supervisor: Supervisor) -> None:
    (made,) = await asyncio.to_thread(
        it.operator, "token", "new", "--out", str(it.home / "tickets")
    )
    here = it.home / "local"
    ticket = Path(made["file"]).read_bytes()
    enrolled = await enrol(ticket, here, "generic-arm64", "local", print, silence_s=40)
    it.shares[0].write(here / "samples.npz")
    tables = edge_tables(enrolled)
    tables["device"]["state_dir"] = "state"
    tables["data"] = {"kind": "npz", "path": "samples.npz"}
    tables["gates"] = {"enabled": False}
    provision.write_toml(here / "edge.toml", tables)
    command = python("edge_runtime.daemon", "--config", str(here / "edge.toml"))
    await supervisor.start(ChildSpec("local", command, ENVIRONMENT))

"""A coordinator that devices join by tickets, with the real broker, enclave and processes.

Only the owner's offline work (keys, device CA, manifest) is done by the simulation's.
"""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
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


@dataclass
class Fleet:
    """What runs, where its files are, and the devices' samples."""

    home: Path
    config: Path
    shares: Any
    supervisor: Supervisor

    def operator(self, *words: str) -> Any:
        """An operator's command with --json; its output."""
        command = [*COMMAND, *words, "--config", str(self.config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout)

    def export(self) -> Any:
        """What the coordinator remembers."""
        command = [sys.executable, "-m", "coordinator.daemon", "--config", str(self.config)]
        done = subprocess.run([*command, "export"], capture_output=True, check=True, timeout=120)
        return json.loads(done.stdout)

    async def join(self, name: str, ticket: Path, board: str, serial: str, share: Any) -> None:
        """Enrol a device of this machine and start its daemon."""
        await self.enrol(name, ticket, board, serial, share)
        await self.begin(name)

    async def enrol(self, name: str, ticket: Path, board: str, serial: str, share: Any) -> Path:
        """Enrol a device of this machine; its directory."""
        here = self.home / name
        enrolled = await enrol(ticket.read_bytes(), here, board, serial, print, silence_s=40)
        share.write(here / "samples.npz")
        tables = edge_tables(enrolled)
        tables["device"]["state_dir"] = "state"
        tables["data"] = {"kind": "npz", "path": "samples.npz"}
        tables["gates"] = {"enabled": False}  # the machine that tests is busy
        provision.write_toml(here / "edge.toml", tables)
        return here

    async def begin(self, name: str) -> None:
        """Start an enrolled device's daemon."""
        command = python("edge_runtime.daemon", "--config", str(self.home / name / "edge.toml"))
        await self.supervisor.start(ChildSpec(name, command, ENVIRONMENT))


def unchanged(text: str) -> str:
    return text


@asynccontextmanager
async def joinable(
    home: Path,
    kind: BrokerKind,
    devices: int,
    edit: Callable[[str], str] = unchanged,
    model: str = "watch_cnn",
) -> AsyncIterator[Fleet]:
    """Broker, enclave and coordinator for so many devices, one round of this model of the zoo.

    `edit` may change the text of coordinator.toml before it is used.
    """
    fleet = FleetId.parse("field")
    asked: Any = complete({"model": model, "dataset": None, "devices": devices, "rounds": 1})
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
        config.write_text(edit(config.read_text() + enrolment(here, plan)))
        for name, module, path in (
            ("enclave", "enclave.server", enclave),
            ("coordinator", "coordinator.daemon", config),
        ):
            command = python(module, "--config", str(path))
            await supervisor.start(ChildSpec(name, command, ENVIRONMENT))
        shares = data.loader(asked.dataset)(home / "cache", devices, asked.seed)
        yield Fleet(home, config, shares, supervisor)

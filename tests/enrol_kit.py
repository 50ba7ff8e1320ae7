"""A fleet that devices can join: an owner, a coordinator's configuration, tickets."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.config import CoordinatorConfig
from qflare.host.broker import BrokerPlan
from qflare.host.config import load
from tests.coordinator_home import found
from tests.unit.coordinator_rig import World

COMMAND = [sys.executable, "-m", "qflare.cli"]


@dataclass
class Home:
    """A coordinator's directory, with enrolment switched on."""

    path: Path
    world: World

    @property
    def config_file(self) -> Path:
        return self.path / "coordinator.toml"

    @property
    def config(self) -> CoordinatorConfig:
        return load(CoordinatorConfig, "coordinator", self.config_file, {}).value

    def write(
        self,
        plan: BrokerPlan | None,
        password: str | None = None,
        approve: str = "auto",
        more: str = "",
        broker: str = "",
    ) -> Path:
        """Write keys and configuration; without a broker, accounts go into files beside them.

        `broker` are more lines for [broker], `more` for [enrolment].
        """
        url = plan.url if plan else "mqtt://127.0.0.1:1"
        sections = f"{enrolment(self.path, plan, approve)}\n{more}"
        found(self.path, self.world, url, password or "none", broker, sections)
        return self.config_file

    def qflare(self, *words: str, expect: int = 0) -> Any:
        """Run an operator's command with --json; its output."""
        command = [*COMMAND, *words, "--config", str(self.config_file), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == expect, done.stderr
        return json.loads(done.stdout) if expect == 0 else done.stderr

    def ticket(self, *words: str) -> Path:
        """A new ticket's file."""
        (made,) = self.qflare("token", "new", "--out", str(self.path / "tickets"), *words)
        return Path(made["file"])


def enrolment(home: Path, plan: BrokerPlan | None, approve: str = "auto") -> str:
    """The section."""
    return f"""
[enrolment]
ca_key = "{home}/ca.seed"
ca_certificate = "{home}/ca.der"
brokers = ["{plan.url if plan else "mqtt://127.0.0.1:1"}"]
ticket_brokers = ["{plan.enrol_url if plan else "mqtt://127.0.0.1:2"}"]
broker_kind = "{plan.kind if plan else "mosquitto"}"
device_accounts = "{plan.device_accounts if plan else home / "devices"}"
ticket_accounts = "{plan.token_accounts if plan else home / "tickets.passwd"}"
broker_pid_file = "{plan.pid_file if plan else home / "pid"}"
approve = "{approve}"
"""


def new_world() -> World:
    """Certificates that are valid now."""
    return World(start=time.time())

"""A new version by the broker: the operator's command, both daemons, and kill -9 in between."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qflare.crypto.issuing import issue_device
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from tests.coordinator_home import found
from tests.e2e.conftest import DEVICES, FLEET, RunningBroker, WithBroker
from tests.e2e.test_edge_process import ROOT, device, until
from tests.rollout_kit import release
from tests.unit.coordinator_rig import World

pytestmark = pytest.mark.slow
SIZE = 6_000_000
NAME = DEVICES[0]


class Site:
    """One coordinator and one device of a fleet, each with a directory."""

    def __init__(self, home: Path, broker: RunningBroker) -> None:
        self.world = World(start=time.time())
        password = broker.credentials["coordinator"]
        self.coordinator = found(home / "coordinator", self.world, broker.plan.url, password)
        self.edge = home / "edge"
        self.edge.mkdir()
        key = SigningKey.generate(DEFAULT)
        now = datetime.now(UTC)
        der = issue_device(self.world.ca_key, self.world.ca, NAME, key.verify_key, now, 10)
        files = {
            "key": key.to_seed(),
            "device.der": der,
            "owner.key": self.world.owner.verify_key.raw,
            "password": broker.credentials[NAME].encode(),
        }
        for name, content in files.items():
            (self.edge / name).write_bytes(content)
        nothing = np.zeros((2, 2), np.float32)
        np.savez(self.edge / "data.npz", x_train=nothing, y_train=nothing)
        self.config = self.edge / "edge.toml"
        self.config.write_text(f"""\
[device]
fleet = "{FLEET}"
name = "{NAME}"
state_dir = "state"
key = "key"
certificate = "device.der"
owner_key = "owner.key"
[broker]
url = "{broker.plan.url}"
password_file = "password"
[data]
path = "data.npz"
[transfer]
down_kib_s = 1500
[gates]
enabled = false
[log]
format = "json"
file = "edge.log"
""")

    def operator(self, *words: str) -> str:
        command = [sys.executable, "-m", "qflare.cli", "rollout", *words]
        done = subprocess.run(
            [*command, "--config", str(self.coordinator)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def says(self) -> Any:
        """What the device says, as the operator sees it."""
        shown = json.loads(self.operator("show", "--json"))
        return shown["devices"].get(str(NAME), {"detail": ""})

    def part(self) -> int:
        sizes = [p.stat().st_size for p in (self.edge / "state/update/incoming").glob("*.part")]
        return sum(sizes)

    def staged(self) -> dict[str, bytes]:
        here = self.edge / "state/update/staged"
        return {path.name: path.read_bytes() for path in here.glob("*.qflare")}


@asynccontextmanager
async def coordinator(site: Site) -> AsyncIterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "coordinator.daemon", "--config", str(site.coordinator)]
    with (site.edge / "coordinator.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log)
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


def test_a_release_gets_through_though_both_ends_are_killed(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        site = Site(tmp_path, broker)
        bundle = tmp_path / "new.qflare"
        made = release(tmp_path / "wheels", "1.1.0", 2, SIZE, fleet=FLEET, owner=site.world.owner)
        bundle.write_bytes(made)
        async with coordinator(site), device(site.config) as process:
            site.operator("stage", str(bundle))
            await until(lambda: site.part() >= SIZE / 4)
            process.kill()
        reached = site.part()
        assert reached >= SIZE / 4
        assert site.staged() == {}
        async with device(site.config):
            async with coordinator(site):
                await until(lambda: site.part() >= SIZE / 2)
            async with coordinator(site) as process:
                await until(site.staged)
                assert site.staged() == {"1.1.0-2.qflare": made}
                await until(lambda: site.says()["detail"] == "update 1.1.0 is staged")
                site.operator("stop", "1.1.0")
                assert json.loads(site.operator("show", "--json"))["bundles"] == []
        assert site.part() == 0

    with_broker(body)


def test_a_release_of_another_owner_is_refused_by_the_device_whatever_the_coordinator_does(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        site = Site(tmp_path, broker)
        stranger = SigningKey.generate(DEFAULT)
        bundle = tmp_path / "new.qflare"
        bundle.write_bytes(release(tmp_path / "w", "1.1.0", 2, fleet=FLEET, owner=stranger))
        # The coordinator's operator means it: he names the stranger as the owner.
        own = site.coordinator.parent / "owner_key"
        owner = own.read_bytes()
        own.write_bytes(stranger.verify_key.raw)
        site.operator("stage", str(bundle))
        own.write_bytes(owner)
        async with coordinator(site), device(site.config):
            await until(lambda: "update refused: bad_signature" in site.says()["detail"])
        assert (site.part(), site.staged()) == (0, {})

    with_broker(body)

"""Certificates that are about to end, or have ended, are renewed while the fleet is at work."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import certificate_file
from edge_runtime.doctor.finding import State
from edge_runtime.doctor.identity import check_validity
from qflare.crypto.issuing import issue_device
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.host.broker import BrokerKind
from qflare.names import DeviceId
from tests.e2e.test_enrolled_round import released
from tests.joined_fleet import Fleet, joinable

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e")]
# How long ago each device's certificate was issued, and for how many days.
AGES = {"soon": (25, 30), "over": (40, 30), "fresh": (0, 30)}


def aged(fleet: Fleet, here: Path, name: DeviceId, age: int, days: int) -> bytes:
    """The device's certificate, as if it had been issued so many days ago."""
    owner = fleet.config.parent
    ca_key = SigningKey.from_seed(DEFAULT, (owner / "ca.seed").read_bytes())
    key = SigningKey.from_seed(DEFAULT, (here / "device.seed").read_bytes())
    when = datetime.now(UTC) - timedelta(days=age)
    ca = (owner / "ca.der").read_bytes()
    return issue_device(ca_key, ca, name, key.verify_key, when, days)


async def one_round(kind: BrokerKind, home: Path) -> tuple[Any, dict[str, tuple[bytes, bytes]]]:
    async with joinable(home, kind, len(AGES)) as fleet:
        words = ("token", "new", "--count", str(len(AGES)), "--out", str(home / "tickets"))
        tickets = await asyncio.to_thread(fleet.operator, *words)
        granted = {}
        for i, (name, ticket) in enumerate(zip(AGES, tickets, strict=True)):
            serial = f"1000000000{i:06d}"
            file = Path(ticket["file"])
            here = await fleet.enrol(name, file, "rpi4", serial, fleet.shares[i])
            device = DeviceId(f"rpi4-{serial[-8:]}")
            granted[name] = aged(fleet, here, device, *AGES[name])
            (here / "device.der").write_bytes(granted[name])
            await fleet.begin(name)
        async with asyncio.timeout(120):
            while not await asyncio.to_thread(released, fleet):
                await asyncio.sleep(0.5)
        now = {
            name: (der, certificate_file.newest(home / name / "state", der))
            for name, der in granted.items()
        }
        return await asyncio.to_thread(fleet.export), now


def test_they_are_renewed_and_take_part(broker_kind: BrokerKind, tmp_path: Path) -> None:
    exported, certificates = asyncio.run(one_round(broker_kind, tmp_path))
    (only,) = exported["rounds"]
    assert (only["status"], only["admitted"]) == ("released", len(AGES)), exported
    assert {name for name, (old, new) in certificates.items() if old != new} == {"soon", "over"}
    for _, new in certificates.values():
        assert check_validity(new, datetime.now(UTC)).state is State.OK

"""From tickets to a released model: devices that joined by themselves train a round together."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from qflare.host.broker import BrokerKind
from tests.joined_fleet import Fleet, joinable

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e")]
DEVICES = 3


def released(fleet: Fleet) -> bool:
    return any(entry["published_at"] for entry in fleet.export()["rounds"])


async def one_round(kind: BrokerKind, home: Path) -> Any:
    async with joinable(home, kind, DEVICES) as fleet:
        words = ("token", "new", "--count", str(DEVICES), "--out", str(home / "tickets"))
        tickets = await asyncio.to_thread(fleet.operator, *words)
        for i, (ticket, share) in enumerate(zip(tickets, fleet.shares, strict=True)):
            serial = f"1000000000{i:06d}"
            await fleet.join(f"board-{i}", Path(ticket["file"]), "rpi4", serial, share)
        async with asyncio.timeout(90):
            while not await asyncio.to_thread(released, fleet):
                await asyncio.sleep(0.5)
        entries = await asyncio.to_thread(fleet.operator, "token", "list")
        return await asyncio.to_thread(fleet.export), entries


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

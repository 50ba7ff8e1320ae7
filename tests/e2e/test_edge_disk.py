"""The real daemon on a disk that is full, that fails, or that can't be written from the start."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.slots import read_slot
from qflare.host.broker import BrokerKind
from qflare.messages import Presence
from qflare.names import Digest
from qflare.topics import All
from tests.e2e.conftest import RunningBroker, WithBroker, some_broker
from tests.e2e.test_edge_process import (
    Desk,
    count,
    desk,
    device,
    logged,
    slow_offer,
    until,
    write_device,
)
from tests.edge_lab import Lab
from tests.small_disk import LACKING, SmallDisk, small_disk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
    pytest.mark.xdist_group("loop devices"),
]


@pytest.fixture
def broker_kind() -> BrokerKind:
    return some_broker()


def weights(lab: Lab, scale: float) -> bytes:
    return (np.frombuffer(lab.genesis, "<f4") * np.float32(scale)).tobytes()


def device_on(disk: SmallDisk, folder: Path, lab: Lab, broker: RunningBroker) -> Path:
    """A device whose state is on this disk, without a reserve that would put things off."""
    config = write_device(folder, lab, broker)
    text = config.read_text().replace('state_dir = "state"', f'state_dir = "{disk.path}/state"')
    config.write_text(text + "[storage]\nreserve_mb = 0\n[process]\nidle_s = 0\n")
    return config


def says(it: Desk, word: str) -> bool:
    """Does the operator see it?"""
    last = it.states[-1] if it.states else None
    return last is not None and last.status is Presence.ONLINE and word in last.detail


def active(disk: SmallDisk) -> str:
    try:
        return (disk.path / "state/model/active").readlink().name
    except OSError:
        return ""


def test_a_disk_that_is_full_at_the_commit_costs_the_round_at_most(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        with small_disk(tmp_path) as disk:
            config = device_on(disk, tmp_path, lab, broker)
            async with desk(broker, lab) as it, device(config) as process:
                await until(lambda: active(disk) == str(Digest.of(lab.genesis)))
                it.to_all(All.OFFER, slow_offer(lab, 1, 60))
                await until(lambda: count(config, "offer accepted") == 1)
                disk.fill()
                await until(lambda: says(it, "full"))
                assert not it.offers
                # Applications don't notice.
                read_slot(disk.path / "state/model/active").read()
                disk.make_room()
                await until(lambda: it.updates)
                assert len(it.updates) == 1  # the round was still open
                assert process.poll() is None
                assert says(it, "")
                assert it.states[-1].detail == ""
                online = [s.session for s in it.states if s.status is Presence.ONLINE]
                assert sorted(set(online)) == [1, 2]
                assert count(config, "the disk refuses") == 1
                (update,) = it.updates
                it.blobs[Digest.of(weights(lab, 0.9))] = weights(lab, 0.9)
                it.to_all(All.MODEL, lab.release(1, weights(lab, 0.9), (update,)))
                await until(lambda: count(config, "update counted") == 1)

    with_broker(body)


def test_a_disk_that_fails_is_told_and_waited_for(with_broker: WithBroker, tmp_path: Path) -> None:
    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        new = weights(lab, 0.9)
        with small_disk(tmp_path) as disk:
            config = device_on(disk, tmp_path, lab, broker)
            async with desk(broker, lab) as it, device(config) as process:
                await until(lambda: active(disk) == str(Digest.of(lab.genesis)))
                disk.fail()
                it.blobs[Digest.of(new)] = new
                it.to_all(All.MODEL, lab.release(1, new))
                await until(lambda: says(it, "disk"))
                read_slot(disk.path / "state/model/active").read()
                await until(disk.unmounted)  # nobody holds on to it
                await asyncio.sleep(3)  # what is below the mount point is no new device
                assert not any(disk.path.iterdir())
                disk.mount()
                await until(lambda: active(disk) == str(Digest.of(new)))
                assert process.poll() is None
                assert it.states[-1].detail == ""

    with_broker(body)


def test_a_device_on_a_read_only_disk_runs_and_says_so(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        with small_disk(tmp_path) as disk:
            config = device_on(disk, tmp_path, lab, broker)
            async with desk(broker, lab) as it:
                async with device(config):
                    await until(lambda: active(disk) == str(Digest.of(lab.genesis)))
                await until(disk.unmounted)
                disk.mount("ro")
                async with device(config) as process:
                    await until(lambda: says(it, "can write"))
                    await until(disk.unmounted)
                    disk.mount()
                    it.to_all(All.OFFER, lab.signed_offer(1))
                    await until(lambda: it.updates)
                    assert process.poll() is None

    with_broker(body)


def test_a_download_that_finds_no_room_is_put_off(with_broker: WithBroker, tmp_path: Path) -> None:
    """It costs nothing else: the device goes on, and fetches the model when there is room."""

    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        large = np.zeros(2 * 2**20, "<f4").tobytes()
        lab.genesis, lab.parameters = large, (("w", (2 * 2**20,)),)
        with small_disk(tmp_path) as disk:
            config = device_on(disk, tmp_path, lab, broker)
            disk.fill(but=4 * 2**20)
            async with desk(broker, lab), device(config) as process:
                await until(lambda: count(config, "blob lost") == 1)
                (lost,) = (line for line in logged(config) if line["event"] == "blob lost")
                assert "no room" in str(lost["reason"])
                disk.make_room()
                whole = disk.path / "state/blobs" / str(Digest.of(large))
                await until(whole.exists)
                assert process.poll() is None

    with_broker(body)

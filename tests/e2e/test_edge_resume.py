"""kill -9 in the middle of a transfer: it goes on where it was, over a real broker."""

import time
from pathlib import Path

import numpy as np
import pytest

from coordinator.transfers import Limits, Transfers
from qflare import topics
from qflare.host.link import Link
from qflare.names import Digest
from qflare.topics import All, Down, Up, UpChunk, UpTopic
from qflare.transfer import TransferOffer
from tests.e2e.conftest import RunningBroker, WithBroker
from tests.e2e.test_edge_process import (
    CHUNK,
    Desk,
    count,
    desk,
    device,
    logged,
    slow_offer,
    until,
    write_device,
)
from tests.edge_lab import DEVICE, Lab

pytestmark = pytest.mark.slow
MIB = 2**20
WINDOW = 2


def with_rates(config: Path, up_kib_s: int = 0, down_kib_s: int = 0) -> None:
    rates = f"[transfer]\nup_kib_s = {up_kib_s}\ndown_kib_s = {down_kib_s}\n"
    config.write_text(config.read_text().replace("[transfer]\n", rates))


def test_a_large_model_on_a_slow_link_through_kills(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        rng = np.random.default_rng(1)
        large = rng.integers(0, 2**32, 5 * MIB, np.uint32).tobytes()  # 20 MiB
        lab = Lab(genesis=large, parameters=(("w", (5 * MIB,)),))
        config = write_device(tmp_path, lab, broker)
        with_rates(config, down_kib_s=3 * 1024)
        blobs = tmp_path / "state/blobs"
        whole = blobs / str(Digest.of(large))
        async with desk(broker, lab) as it:
            for sent in (6 * MIB, 13 * MIB):
                async with device(config) as process:
                    await until(lambda sent=sent: it.link.counters.bytes_out > sent)
                    assert not whole.exists()
                    process.kill()
            async with device(config):
                await until(whole.exists)
        assert whole.read_bytes() == large
        assert [file for file in blobs.iterdir() if file.name.endswith(".part")] == []
        resumed = [line["bytes"] for line in logged(config) if line["event"] == "download resumed"]
        assert len(resumed) == 2
        assert all(int(str(size)) % MIB == 0 for size in resumed)
        # At each kill less than a piece is lost, and what was asked for and on its way.
        lost = MIB + 16 * CHUNK
        assert it.link.counters.bytes_out < len(large) + 2 * lost + MIB
        assert not count(config, "refused")

    with_broker(body)


class RealTransfers(Desk):
    """Grants as the coordinator does."""

    def __init__(self, lab: Lab, link: Link) -> None:
        super().__init__(lab, link)
        self.transfers = Transfers(Limits(window=WINDOW, regrant_s=3600.0))
        self.taken: list[int] = []

    def _receive(self, topic: topics.Topic, payload: bytes) -> None:
        now = time.monotonic()
        match topic:
            case UpTopic(kind=Up.OFFER):
                offer = TransferOffer.parse(payload)
                self.offers.append(offer)
                self.transfers.offer(DEVICE, offer, now)
            case UpChunk():
                self.taken.append(topic.index)
                self.transfers.chunk(DEVICE, topic.transfer, topic.index, len(payload), now)
                self._chunk(topic, payload)
            case _:
                super()._receive(topic, payload)
        for _, grant in self.transfers.grants(now, DEVICE):
            self.down(Down.GRANT, grant.to_bytes())


def test_an_update_that_was_being_sent_through_kills(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        config.write_text(config.read_text().replace("chunk = 4096", "chunk = 1024"))
        with_rates(config, up_kib_s=3)
        async with desk(broker, lab, RealTransfers) as it:
            it.to_all(All.OFFER, slow_offer(lab, 1, 1))
            kills = (2, 4)
            for taken in kills:
                async with device(config) as process:
                    await until(lambda taken=taken: len(it.taken) >= taken)
                    process.kill()
            assert not it.updates
            async with device(config):
                await until(lambda: it.updates)
                await until(lambda: count(config, "update accepted") == 1)
        (offer,) = set(it.offers)
        assert offer.chunks > 6
        # Those that were granted and on their way at a kill may come from both runs.
        assert sorted(set(it.taken)) == [*range(offer.chunks)]
        assert len(it.taken) <= offer.chunks + WINDOW * len(kills)
        assert not it.refused

    with_broker(body)

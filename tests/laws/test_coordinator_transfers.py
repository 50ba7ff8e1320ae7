"""Uploads: in any order, with loss, repetition and garbage, files are whole or refused."""

from contextlib import suppress
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import given, settings

from coordinator.transfers import Limits, Transfers, update_ceiling
from qflare.compression import CODECS
from qflare.compression.padding import pad
from qflare.crypto.suites import DEFAULT
from qflare.faults import PeerFault
from qflare.messages import KIB, UpdateHeader, UpdatePayload
from qflare.names import DeviceId, Digest
from qflare.transfer import Grant, TransferOffer

DEVICES = [DeviceId.parse(f"dev-{i}") for i in range(4)]
LIMITS = Limits(window=3, credit=7, open_max=2, regrant_s=5.0, give_up_s=60.0)


@dataclass
class Sender:
    """An honest device, and the file that grows at the other end."""

    device: DeviceId
    data: bytes
    granted: list[int] = field(default_factory=list)
    file: bytearray = field(default_factory=bytearray)
    complete: bool = False

    @property
    def offer(self) -> TransferOffer:
        return TransferOffer(Digest.of(self.data), 1, len(self.data), KIB)


class Channel:
    """Transfers and senders, with a network in between that hypothesis has in its hand."""

    def __init__(self, sizes: list[int]) -> None:
        self.transfers = Transfers(LIMITS)
        self.senders = {
            device: Sender(device, bytes(i % 251 for i in range(size)), file=bytearray(size))
            for device, size in zip(DEVICES, sizes, strict=False)
        }
        self.now = 0.0
        self.outstanding: dict[DeviceId, set[int]] = {}

    def take(self, grants: list[tuple[DeviceId, Grant]]) -> None:
        for device, grant in grants:
            assert grant.transfer == self.senders[device].offer.transfer
            self.senders[device].granted += grant.indices

    def offer(self, sender: Sender) -> None:
        self.transfers.offer(sender.device, sender.offer, self.now)
        self.take(self.transfers.grants(self.now, sender.device))

    def deliver(self, sender: Sender, index: int, part: bytes) -> None:
        digest = sender.offer.transfer
        chunk = self.transfers.chunk(sender.device, digest, index, len(part), self.now)
        if chunk is None:
            return
        assert not sender.complete
        sender.file[chunk.offset : chunk.offset + len(part)] = part
        sender.complete = chunk.complete
        if chunk.complete:
            assert sender.file == sender.data
            self.transfers.drop(sender.device)
            self.transfers.start_waiting(self.now)
        self.take(self.transfers.grants(self.now, sender.device))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.transfers.tick(self.now)
        self.take(self.transfers.grants(self.now))

    def check(self) -> None:
        transfers = self.transfers
        granted = [len(t.granted) for t in transfers._open.values()]
        assert transfers._used == sum(granted) <= LIMITS.credit
        assert all(n <= LIMITS.window for n in granted)
        assert transfers.opened <= LIMITS.open_max


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 12 * KIB), min_size=1, max_size=4),
    st.data(),
)
def test_any_network(sizes: list[int], data: st.DataObject) -> None:
    channel = Channel(sizes)
    senders = list(channel.senders.values())
    for _ in range(data.draw(st.integers(0, 60), label="disorder")):
        sender = data.draw(st.sampled_from(senders), label="sender")
        action = data.draw(st.sampled_from(["offer", "send", "twice", "lose", "garbage", "tick"]))
        if sender.complete and action != "garbage":
            continue
        match action:
            case "offer":
                channel.offer(sender)
            case "send" | "twice" if sender.granted:
                at = data.draw(st.integers(0, len(sender.granted) - 1))
                index = sender.granted[at] if action == "twice" else sender.granted.pop(at)
                part = sender.data[index * KIB : (index + 1) * KIB]
                with suppress(PeerFault):  # granted to an earlier life of this transfer
                    channel.deliver(sender, index, part)
            case "lose" if sender.granted:
                sender.granted.pop(0)
            case "garbage":
                index = data.draw(st.integers(-1, 2**20))
                wrong = data.draw(st.integers(0, 2 * KIB).filter(lambda n: n != KIB))
                try:
                    chunk = channel.transfers.chunk(
                        sender.device, Digest.of(b"another"), index, wrong, channel.now
                    )
                except PeerFault:
                    chunk = None
                assert chunk is None
            case "tick":
                channel.tick(data.draw(st.sampled_from([1.0, 6.0, 70.0])))
        channel.check()
    # From here on everybody is honest and nothing is lost: all files arrive.
    for _ in range(200):
        for sender in senders:
            if not sender.complete:
                channel.offer(sender)
            while sender.granted and not sender.complete:
                index = sender.granted.pop(0)
                with suppress(PeerFault):
                    channel.deliver(sender, index, sender.data[index * KIB : (index + 1) * KIB])
            channel.check()
        channel.tick(1.0)
        if all(sender.complete for sender in senders):
            break
    assert all(sender.complete for sender in senders)
    assert channel.transfers._used == 0


@given(
    st.integers(1, 200_000),
    st.sampled_from(sorted(CODECS)),
    st.integers(1, 2**20),
    st.sampled_from([1, 7, 1024]),
)
def test_the_ceiling_lets_every_honest_update_in(
    size: int, codec: str, weight: int, classes: int
) -> None:
    payload = CODECS[codec].payload_ceiling(size)
    most = (2**20,) * (3 * classes) + (2**40,) * 2
    plain = UpdatePayload(weight, bytes(payload), most).to_bytes()
    sealed = len(pad(plain)) + DEFAULT.seal_overhead
    whole = sealed + DEFAULT.signature_length + UpdateHeader.CEILING + 64
    assert whole <= update_ceiling(
        payload, classes, DEFAULT.seal_overhead, DEFAULT.signature_length
    )

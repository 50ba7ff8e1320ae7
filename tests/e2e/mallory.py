"""A provisioned device in the wrong hands: its key, certificate and password, and no manners."""

import asyncio
import socket
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from qflare import codec
from qflare.compression import parse_codec
from qflare.compression.encoding import encode
from qflare.crypto.keys import KemPublicKey, SigningKey
from qflare.crypto.suites import DEFAULT, Aead
from qflare.envelope import Update, peek_signed, seal_update, sign
from qflare.faults import Reason
from qflare.host.link import Event, Link, LinkConfig, Message, private_client_id
from qflare.messages import (
    KIB,
    DeviceHello,
    ModelReady,
    PartyState,
    Presence,
    ReceiptStatus,
    RoundOffer,
    RoundReceipt,
    Telemetry,
    UpdateHeader,
    UpdatePayload,
    UpdateReceipt,
)
from qflare.names import DeviceId, Digest, FleetId
from qflare.policy import OwnerManifest
from qflare.tallies import zeros
from qflare.topics import (
    All,
    AllTopic,
    Down,
    DownTopic,
    StateTopic,
    Up,
    UpChunk,
    UpTopic,
    build,
    device_filters,
    parse,
)
from qflare.transfer import Grant, TransferOffer

CHUNK = 64 * KIB
PATIENCE_S = 60.0
SESSION = 7


class Mallory:
    """Speaks the protocol where that helps, and over a real link; use it as a context manager."""

    def __init__(self, home: Path, other_home: Path, refusals: Callable[[], Mapping[str, int]]):
        config = tomllib.loads((home / "edge.toml").read_text())
        self.name = DeviceId.parse(config["device"]["name"])
        self.fleet = FleetId.parse(config["device"]["fleet"])
        self.key = SigningKey.from_seed(DEFAULT, (home / "device.seed").read_bytes())
        self.certificate = (home / "device.der").read_bytes()
        self.other = DeviceId.parse(other_home.name)
        self.other_certificate = (other_home / "device.der").read_bytes()  # it isn't secret
        self.url: str = config["broker"]["url"]
        self.password = Path(config["broker"]["password_file"]).read_text()
        self.offers: dict[int, RoundOffer] = {}
        self.models: dict[int, RoundReceipt] = {}
        self.receipts: dict[Digest, UpdateReceipt] = {}
        self.size = 0  # coordinates of the model
        self.classes = 0
        self.foreign: list[str] = []  # topics of messages that nobody but others should see
        self.link = self._new_link()
        self._grants: dict[Digest, list[int]] = {}
        self._refusals = refusals
        self._running: asyncio.Task[None] | None = None

    # --- the connection ------------------------------------------------------------------------

    def _new_link(self) -> Link:
        # Nothing obliges a device to subscribe to no more than it may read.
        wanted = device_filters(self.fleet, self.name)
        return Link(LinkConfig(self.url, self.name, password=self.password), subscriptions=wanted)

    async def connect(self) -> None:
        self.link = self._new_link()
        self._running = asyncio.create_task(self.link.run(self._on_event))
        await self.until(lambda: self.link.connected, "a connection")

    async def disconnect(self) -> None:
        self.link.close()
        if self._running:
            await self._running

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, Message) or not event.payload:
            return
        match parse(event.topic):
            case AllTopic(_, All.HELLO):
                self.link.publish(self.up(Up.HELLO), self.hello)
            case AllTopic(_, All.OFFER):
                offer = peek_signed(RoundOffer, event.payload)
                self.offers[offer.round] = offer
            case AllTopic(_, All.MODEL):
                ready = peek_signed(ModelReady, event.payload)
                receipt = peek_signed(RoundReceipt, ready.receipt)
                self.models[receipt.round] = receipt
            case AllTopic(_, All.MANIFEST):
                genesis = peek_signed(OwnerManifest, event.payload).genesis
                self.size, self.classes = genesis.size, genesis.classes
            case DownTopic(_, self.name, Down.GRANT):
                grant = Grant.parse(event.payload)
                self._grants.setdefault(grant.transfer, []).extend(grant.indices)
            case DownTopic(_, self.name, Down.RECEIPT):
                got = peek_signed(UpdateReceipt, event.payload)
                self.receipts[got.update] = got
            case DownTopic(_, device) if device != self.name:
                self.foreign.append(event.topic)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {PATIENCE_S:g} s for {what}")
            await asyncio.sleep(0.02)

    async def say(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish as soon as the link takes it."""
        while not self.link.publish(topic, payload, retain):
            await self.until(lambda: self.link.connected, "a connection")
            await asyncio.sleep(0.02)

    def up(self, kind: Up) -> str:
        return build(UpTopic(self.fleet, self.name, kind))

    def chunk_topic(self, transfer: Digest, index: int) -> str:
        return build(UpChunk(self.fleet, self.name, transfer, index))

    @property
    def state_topic(self) -> str:
        return build(StateTopic(self.fleet, self.name))

    @property
    def hello(self) -> bytes:
        return DeviceHello(self.certificate, SESSION).to_bytes()

    def own_topics(self) -> list[str]:
        """One topic of each kind that this device may write."""
        ups = [self.up(kind) for kind in Up]
        return [*ups, self.chunk_topic(Digest.of(b"nothing"), 0), self.state_topic]

    # --- manners -------------------------------------------------------------------------------

    async def state(self, status: Presence) -> None:
        said = PartyState(status, SESSION, "0", "")
        await self.say(self.state_topic, said.to_bytes(), retain=True)

    async def greet(self) -> None:
        """Become a device that is registered and online."""
        await self.state(Presence.ONLINE)
        await self.say(self.up(Up.HELLO), self.hello)

    async def offer_of(self, round_: int) -> RoundOffer:
        await self.until(lambda: round_ in self.offers and self.size > 0, f"round {round_}")
        return self.offers[round_]

    async def report(self, round_: int) -> None:
        """Honest telemetry on the model of a round."""
        await self.until(lambda: round_ in self.models, f"the model of round {round_}")
        await self.say(self.up(Up.TELEMETRY), sign(self.telemetry(round_), self.key))

    def telemetry(self, round_: int) -> Telemetry:
        model = self.models[round_].model
        return Telemetry(self.fleet, self.name, round_, model, 1, 1, 0.0, (), ())

    async def send(
        self, update: bytes, round_: int, named: Digest | None = None
    ) -> tuple[ReceiptStatus, str]:
        """Deliver an update (under another digest, if `named`); return what the receipt says."""
        named = named or Digest.of(update)
        offer = TransferOffer(named, round_, len(update), CHUNK).to_bytes()
        self.receipts.pop(named, None)
        deadline = time.monotonic() + PATIENCE_S
        while named not in self.receipts:
            assert time.monotonic() < deadline, f"no answer to an update of round {round_}"
            await self.say(self.up(Up.OFFER), offer)
            for _ in range(50):
                for index in self._grants.pop(named, []):
                    part = update[index * CHUNK : (index + 1) * CHUNK]
                    await self.say(self.chunk_topic(named, index), part)
                if named in self.receipts:
                    break
                await asyncio.sleep(0.02)
        return self.receipts[named].status, self.receipts[named].reason

    def granted(self, transfer: Digest) -> list[int]:
        """The chunks of a transfer that may be sent."""
        return self._grants.get(transfer, [])

    async def settled(self, update: bytes, round_: int) -> tuple[ReceiptStatus, str]:
        """Deliver an update and wait for the enclave's word, if the coordinator takes it."""
        digest = Digest.of(update)
        await self.send(update, round_)
        if self.receipts[digest].status is ReceiptStatus.ACCEPTED:
            refused = ReceiptStatus.REFUSED
            await self.until(
                lambda: self.receipts[digest].status is refused or round_ in self.models,
                "the enclave's word",
            )
        return self.receipts[digest].status, self.receipts[digest].reason

    # --- none ----------------------------------------------------------------------------------

    def payload(self, offer: RoundOffer, weight: int = 5, size: int = 0) -> UpdatePayload:
        """A small valid update."""
        policy, rng = offer.policy, np.random.default_rng(1)
        delta = np.full(size or self.size, 1e-4, np.float32)
        encoded, _ = encode(delta, parse_codec(policy.codec), rng, policy.clip_norm)
        return UpdatePayload(weight, encoded, zeros(self.classes))

    def seal(
        self, offer: RoundOffer, payload: UpdatePayload | None = None, **changes: object
    ) -> bytes:
        """An update signed with this device's key, honest but for the payload and `changes`.

        `device`, `certificate` and `key` replace what is said of the sender; anything else
        replaces a field of the claims.
        """
        device = changes.pop("device", self.name)
        certificate = changes.pop("certificate", Digest.of(self.certificate))
        key = changes.pop("key", self.key)
        assert isinstance(device, DeviceId)
        assert isinstance(certificate, Digest)
        assert isinstance(key, SigningKey)
        claims = replace(offer.claims, **changes)  # type: ignore[arg-type]
        payload = payload or self.payload(offer)
        return seal_update(payload, claims, device, certificate, key, Aead.AES_256_GCM)

    def moved(self, offer: RoundOffer) -> bytes:
        """An update whose sealed part was made for something else, under a header that fits."""
        honest = Update.parse(self.seal(offer), 1024 * KIB)
        kem = KemPublicKey.parse(DEFAULT, offer.claims.kem_key)
        sealed = kem.seal(self.payload(offer).to_bytes(), b"for something else")
        header = replace(honest.header, sealed=Digest.of(sealed), sealed_size=len(sealed))
        body = header.to_bytes()
        return codec.encode([body, self.key.sign(UpdateHeader.CONTEXT, body).raw, sealed])

    async def refused(self, topic: str, payload: bytes, reason: Reason) -> None:
        """Say something, and wait until the coordinator has counted its refusal."""
        before = self.refusals()
        await self.say(topic, payload)
        await self.until_refused(reason, before)

    async def until_refused(self, reason: Reason, before: Counter[str]) -> None:
        """Wait until the metric of refusals shows one more for this reason."""
        await self.until(lambda: self.refusals()[reason] > before[reason], f"a refusal: {reason}")

    def refusals(self) -> Counter[str]:
        return Counter(self._refusals())


class RawConnection:
    """MQTT 3.1.1 by hand, for what no client library would send. Blocking."""

    def __init__(self, mallory: Mallory) -> None:
        address = urlsplit(mallory.url)
        assert address.hostname
        assert address.port
        self._socket = socket.create_connection((address.hostname, address.port), timeout=30)
        client_id = private_client_id(mallory.name, mallory.password) + "-raw"
        texts = (client_id, mallory.name, mallory.password)
        body = b"\x00\x04MQTT\x04\xc2\x00\x3c" + b"".join(map(_text, texts))
        self._socket.sendall(b"\x10" + _length(len(body)) + body)
        assert self._socket.recv(4) == b"\x20\x02\x00\x00", "the broker refused the connection"

    def close(self) -> None:
        self._socket.close()

    def publish(self, topic: str, payload: bytes) -> None:
        """At QoS 0, without waiting for anything."""
        body = _text(topic) + payload
        self._socket.sendall(b"\x30" + _length(len(body)) + body)

    def is_cut_off(self, topic: str, size: int) -> bool:
        """Send one message of `size` bytes of zeros; does the broker hang up?"""
        head = _text(topic) + b"\x00\x01"
        zeros = bytes(KIB * KIB)
        try:
            self._socket.sendall(b"\x32" + _length(len(head) + size) + head)
            for _ in range(size // len(zeros)):
                self._socket.sendall(zeros)
            return self._socket.recv(1) == b""
        except (ConnectionResetError, BrokenPipeError):
            return True


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _length(value: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)

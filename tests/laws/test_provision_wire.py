"""Laws of the serial line: frames, link, messages and session, under any noise."""

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.provision import dialogue
from edge_runtime.provision.dialogue import ANSWERS, REQUESTS, Begin, Done, Hello, Step
from edge_runtime.provision.frames import PAYLOAD_MAX, Decoder, Frame, Kind, encode
from edge_runtime.provision.link import (
    MESSAGE_MAX,
    Event,
    Link,
    Lost,
    Opened,
    Received,
    Times,
)
from edge_runtime.provision.secrecy import Session, accept, begin
from qflare.crypto.keys import KemPrivateKey
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault, PeerFault
from qflare.messages import parse_any

FRAMES = st.builds(
    Frame,
    from_device=st.booleans(),
    kind=st.sampled_from(Kind),
    link=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**16 - 1),
    payload=st.binary(max_size=PAYLOAD_MAX),
)
NOISE = st.one_of(
    st.binary(max_size=600),
    st.sampled_from([b"#", b"#Q", b"##Q#", b"raspberrypi login: ", b"[ 3.1] usb 1-1: new\r\n"]),
)


@given(st.lists(st.tuples(NOISE, FRAMES), max_size=8), NOISE, st.data())
def test_frames_come_through_noise_cut_anywhere(parts, rest, data):
    line = b"".join(noise + encode(frame) for noise, frame in parts) + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(line)), max_size=12)))
    decoder = Decoder()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(line)], strict=True):
        found += decoder.feed(line[start:end])
    assert found == [frame for _, frame in parts]


@given(st.binary(max_size=3000))
def test_the_decoder_takes_anything_and_forgets_it(line):
    decoder = Decoder()
    for byte in line:
        decoder.feed(bytes([byte]))
    assert len(decoder._buffer) < 400


@given(FRAMES, st.data())
def test_a_changed_frame_is_no_frame(frame, data):
    line = bytearray(encode(frame))
    at = data.draw(st.integers(2, len(line) - 2))
    line[at] ^= 1 << data.draw(st.integers(0, 7))
    found = Decoder().feed(bytes(line) + b"\n")
    assert found in ([], [frame])  # a bit that base64 padding ignores is refused as well
    assert found == []


def test_the_line_has_no_control_character_and_is_a_comment_to_a_shell():
    for kind in Kind:
        line = encode(Frame(False, kind, 0x03040311, 0x1113, bytes(range(PAYLOAD_MAX))))
        assert line[:1] == b"#"
        assert line[-1:] == b"\n"
        assert line[:-1].decode("ascii").isprintable()
    with pytest.raises(LocalFault, match="240"):
        encode(Frame(False, Kind.MORE, 1, 1, bytes(PAYLOAD_MAX + 1)))


def test_console_text_is_kept_apart_from_frames():
    decoder = Decoder()
    decoder.feed(b"pi login: " + encode(Frame(True, Kind.PONG, 1)) + b"Password: ")
    assert decoder.text() == b"pi login: Password: "
    decoder.forget_text()
    assert decoder.text() == b""


@dataclass
class Line:
    """Two ends of a bad line, with a clock of its own."""

    seed: int
    loss: float = 0.0  # of bytes
    flip: float = 0.0
    double: float = 0.0
    now: float = 0.0
    laptop: Link = field(default_factory=lambda: Link(from_device=False, times=Times()))
    device: Link = field(default_factory=lambda: Link(from_device=True, times=Times(patience=60)))

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.got: dict[str, list[Event]] = {"laptop": [], "device": []}

    def worn(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            if self.random.random() < self.loss:
                continue
            if self.random.random() < self.flip:
                byte ^= 1 << self.random.randrange(8)
            out.append(byte)
            if self.random.random() < self.double:
                out.append(byte)
            if self.random.random() < self.flip:
                out += b"[ 12.3] printk\n"
        return bytes(out)

    def step(self) -> None:
        self.got["device"] += self.device.feed(self.worn(self.laptop.take(self.now)), self.now)
        self.got["laptop"] += self.laptop.feed(self.worn(self.device.take(self.now)), self.now)
        self.now += 0.1
        self.got["laptop"] += self.laptop.tick(self.now)
        self.got["device"] += self.device.tick(self.now)

    def messages(self, end: str) -> list[bytes]:
        return [e.message for e in self.got[end] if isinstance(e, Received)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.binary(max_size=1500), min_size=1, max_size=4),
    st.lists(st.binary(max_size=1500), max_size=4),
)
def test_messages_arrive_once_and_in_order_over_a_bad_line(seed, up, down):
    line = Line(seed, loss=0.0005, flip=0.0005, double=0.0005)
    line.laptop.open(7, 0.0)
    for _ in range(3000):
        line.step()
        if line.got["laptop"] == [Opened()]:
            break
    for message in down:
        line.device.send(message)
    for message in up:
        line.laptop.send(message)
    for _ in range(3000):
        line.step()
        if line.laptop.idle and line.device.idle and line.messages("laptop") == down:
            break
    assert line.messages("laptop") == down
    assert line.messages("device") == up
    assert not any(isinstance(event, Lost) for events in line.got.values() for event in events)


def test_a_cut_line_is_lost_after_the_patience_and_a_new_link_forgets_the_old():
    line = Line(1)
    line.laptop.open(7, 0.0)
    line.step()
    line.laptop.send(b"x" * 1000)
    line.step()
    line.loss = 1.0
    for _ in range(155):
        line.step()
    assert line.got["laptop"][-1] == Lost(restarted=False)
    assert line.laptop.due() is None
    line.loss = 0.0
    line.laptop.open(8, line.now)
    line.step()
    assert line.got["device"].count(Opened()) == 2
    line.laptop.send(b"whole")
    line.step()
    assert line.messages("device") == [b"whole"]


def test_a_device_that_starts_late_opens_only_the_last_link_that_was_asked_for():
    device = Link(from_device=True)
    asked = (encode(Frame(False, Kind.OPEN, number)) for number in (7, 7, 8, 8))
    assert device.feed(b"".join(asked), 1.0) == [Opened()]


def test_a_device_that_was_restarted_says_so():
    line = Line(1)
    line.laptop.open(7, 0.0)
    line.step()
    line.device = Link(from_device=True, times=Times())
    line.laptop.send(b"lost on it")
    line.step()
    line.step()
    assert line.got["laptop"][-1] == Lost(restarted=True)
    assert line.messages("device") == []


def test_a_silent_line_is_asked_and_a_quiet_link_stays():
    line = Line(1)
    line.laptop.open(7, 0.0)
    for _ in range(600):
        line.step()
    assert line.got["laptop"] == [Opened()]
    line.loss = 1.0
    for _ in range(200):
        line.step()
    assert line.got["laptop"][-1] == Lost(restarted=False)


def test_our_own_echo_is_counted_and_not_taken_for_an_answer():
    laptop = Link(from_device=False)
    laptop.open(7, 0.0)
    assert laptop.feed(laptop.take(0.0), 0.1) == []
    assert laptop.echoes == 1


def test_a_message_without_end_is_refused():
    device = Link(from_device=True)
    device.feed(encode(Frame(False, Kind.OPEN, 7)), 0.0)
    events: list[Event] = []
    for sequence in range(MESSAGE_MAX // PAYLOAD_MAX + 2):
        frame = Frame(False, Kind.MORE, 7, sequence, bytes(PAYLOAD_MAX))
        events += device.feed(encode(frame), 0.0)
        device.take(0.0)
    assert events == [Lost(restarted=False)]
    with pytest.raises(LocalFault, match="131072"):
        Link(from_device=False).send(bytes(MESSAGE_MAX + 1))


@given(st.lists(FRAMES, max_size=30), st.booleans())
def test_no_frames_in_any_order_break_an_end(frames, from_device):
    link = Link(from_device=from_device)
    if not from_device:
        link.open(1, 0.0)
    for moment, frame in enumerate(frames):
        link.feed(encode(frame), moment)
        link.tick(moment)
        link.take(moment)


# --- messages -----------------------------------------------------------------------------------

KINDS = (Hello, Begin, *REQUESTS, *ANSWERS)


def hello(key: bytes = bytes(DEFAULT.kem_public_length)) -> Hello:
    return Hello(
        protocol=1, version="1", session=bytes(16), key=key, board="rpi4", model="Raspberry Pi 4",
        serial="10000000abcdef01", machine="aarch64", bits=64, clock=1.7e9, memory=2**30,
        disk=2**33, done=(Step.NETWORK,), name="", fingerprint=b"",
    )  # fmt: skip


EXAMPLES = [
    hello(),
    Begin(b"sealed"),
    dialogue.Network(dialogue.Wifi("site", "correct horse", "DE", False), "", "", (), True),
    dialogue.Network(None, "10.0.0.7/24", "10.0.0.1", ("10.0.0.1",), False),
    dialogue.Clock(1.8e9),
    dialogue.GiveTicket(b"ticket", b"owner"),
    dialogue.Settings("[data]\n"),
    dialogue.Enrol(60),
    dialogue.Test(True),
    dialogue.Echo(b"\0\xff"),
    dialogue.Finish(),
    dialogue.Progress("at it"),
    Done("done", (("name", "dev-1"),)),
    dialogue.Failed(dialogue.Trouble.CLOCK, "no right to"),
    dialogue.Echoed(b"\0\xff"),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_has_one_spelling(message):
    data = message.to_bytes()
    assert len(data) <= message.CEILING
    assert parse_any(data, *KINDS) == message
    for cut in range(min(len(data), 60)):
        with pytest.raises(PeerFault):
            parse_any(data[:cut], *KINDS)


def test_the_examples_leave_no_message_out():
    assert {type(message) for message in EXAMPLES} == set(KINDS)
    assert len({kind.TAG for kind in KINDS}) == len(KINDS)


@given(st.data())
def test_garbage_gives_a_fault_and_nothing_else(data):
    raw = bytearray(data.draw(st.sampled_from(EXAMPLES)).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = parse_any(bytes(raw), *KINDS)
    except PeerFault:
        return
    assert message.to_bytes() == bytes(raw)


# --- session ------------------------------------------------------------------------------------

KEY = KemPrivateKey.generate(DEFAULT)


def pair() -> tuple[Session, Session]:
    said = hello(KEY.public.raw).to_bytes()
    message, laptop = begin(KEY.public.raw, said)
    return laptop, accept(Begin.parse(message.to_bytes()), KEY, said)


def test_both_ends_read_each_other_and_only_in_order():
    laptop, device = pair()
    first, second = laptop.seal(b"first"), laptop.seal(b"second")
    assert b"first" not in first
    with pytest.raises(PeerFault):
        device.open(second)
    assert device.open(first) == b"first"
    with pytest.raises(PeerFault):
        device.open(first)  # a repetition
    assert device.open(second) == b"second"
    with pytest.raises(PeerFault):
        laptop.open(laptop.seal(b"mine, not yours"))
    assert laptop.open(device.seal(b"answer")) == b"answer"


def test_a_begin_is_worth_nothing_with_another_hello_or_key():
    said = hello(KEY.public.raw).to_bytes()
    message, _ = begin(KEY.public.raw, said)
    with pytest.raises(PeerFault):
        accept(message, KEY, said[:-1] + b"x")
    with pytest.raises(PeerFault):
        accept(message, KemPrivateKey.generate(DEFAULT), said)


@given(st.binary(max_size=200))
def test_garbage_opens_nothing(garbage):
    _, device = pair()
    with pytest.raises(PeerFault):
        device.open(garbage)
    with pytest.raises(PeerFault):
        accept(Begin(garbage), KEY, b"hello")

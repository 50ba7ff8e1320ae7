"""Updates that are wrong in one respect each, otherwise signed and sealed as they should be."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qflare.compression import parse_codec
from qflare.compression.encoding import encode
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.faults import Reason
from qflare.messages import KIB, RoundOffer, UpdatePayload
from qflare.names import Digest, FleetId
from qflare.tallies import zeros

from .mallory import Mallory

Update = Callable[[Mallory, RoundOffer], bytes]


@dataclass(frozen=True)
class Attack:
    """An update that is wrong in one respect, and how it has to be refused."""

    name: str
    make: Update
    reason: Reason
    named: Digest | None = None  # the digest to offer it under, if not its own


def _weighing(weight: int) -> Update:
    return lambda m, offer: m.seal(offer, m.payload(offer, weight=weight))


def _telling(*first: int) -> Update:
    """Tallies that begin with these numbers; the rest is honest."""

    def make(m: Mallory, offer: RoundOffer) -> bytes:
        tallies = (*first, *zeros(m.classes)[len(first) :])
        return m.seal(offer, replace(m.payload(offer), tallies=tallies))

    return make


def _of_length(change: int) -> Update:
    return lambda m, offer: m.seal(offer, m.payload(offer, size=m.size + change))


def _encoded(make: Callable[[Mallory], bytes]) -> Update:
    return lambda m, offer: m.seal(offer, UpdatePayload(5, make(m), zeros(m.classes)))


def _quantised(m: Mallory, name: str, value: float) -> bytes:
    delta = np.full(m.size, value, np.float32)
    return encode(delta, parse_codec(name), np.random.default_rng(1))[0]


def _bomb(_: Mallory) -> bytes:
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    return press.compress(bytes(2048 * KIB)) + press.flush()


def _earlier(m: Mallory, _: RoundOffer) -> bytes:
    return m.seal(m.offers[1])


ATTACKS = (
    Attack("weight 0", _weighing(0), Reason.BAD_WEIGHT),
    Attack("weight below 0", _weighing(-1), Reason.BAD_WEIGHT),
    Attack("weight above the cap", _weighing(4097), Reason.BAD_WEIGHT),
    Attack("weight of 2^62", _weighing(2**62), Reason.BAD_WEIGHT),
    Attack("too many tallies", _telling(*zeros(1024)), Reason.BAD_TALLIES),
    Attack("more right than seen", _telling(1, 0, 2), Reason.BAD_TALLIES),
    Attack("more seen than the cap", _telling(4097), Reason.BAD_TALLIES),
    Attack("vector too short", _of_length(-1000), Reason.WRONG_SHAPE),
    Attack("vector too long", _of_length(+300), Reason.MALFORMED),
    Attack("no vector", _encoded(lambda m: b""), Reason.MALFORMED),
    Attack("another codec", _encoded(lambda m: _quantised(m, "q4", 1e-4)), Reason.MALFORMED),
    Attack("a deflate bomb", _encoded(_bomb), Reason.MALFORMED),
    Attack("a huge norm", _encoded(lambda m: _quantised(m, "q4z", 100.0)), Reason.NORM_TOO_LARGE),
    Attack("claims of an earlier round", _earlier, Reason.WRONG_ROUND),
    Attack("the next round", lambda m, o: m.seal(o, round=o.round + 1), Reason.WRONG_ROUND),
    Attack("an older epoch", lambda m, o: m.seal(o, epoch=o.claims.epoch - 1), Reason.STALE_EPOCH),
    Attack("other claims", lambda m, o: m.seal(o, model=Digest.of(b"x")), Reason.WRONG_OFFER),
    Attack("another fleet", lambda m, o: m.seal(o, fleet=FleetId.parse("x")), Reason.WRONG_FLEET),
    Attack("another's name", lambda m, o: m.seal(o, device=m.other), Reason.UNKNOWN_DEVICE),
    Attack(
        "another's certificate",
        lambda m, o: m.seal(o, certificate=Digest.of(m.other_certificate)),
        Reason.BAD_CERTIFICATE,
    ),
    Attack(
        "another's key",
        lambda m, o: m.seal(o, key=SigningKey.generate(DEFAULT)),
        Reason.BAD_SIGNATURE,
    ),
    Attack("sealed for something else", lambda m, o: m.moved(o), Reason.CANNOT_OPEN),
    Attack("truncated", lambda m, o: m.seal(o)[:-100], Reason.MALFORMED),
    Attack("a byte too many", lambda m, o: m.seal(o) + b"\0", Reason.MALFORMED),
    Attack("not what was offered", lambda m, o: m.seal(o), Reason.WRONG_DIGEST, Digest.of(b"else")),
)

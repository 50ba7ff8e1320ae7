"""Hypothesis strategies for every message, made from the classes' own field types."""

import types
import typing
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from qflare import enclave_wire, enrolment, messages, report, rollout, ticket, transfer
from qflare.crypto.suites import DEFAULT
from qflare.messages import EnclaveClaims, Message, RoundOffer, cohort_digest
from qflare.names import RESERVED, DeviceId, Digest, FleetId
from qflare.policy import RoundPolicy
from qflare.schedule import Schedule
from qflare.tallies import CLASSES_MAX, LOSS_MAX, Tallies

names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(Digest)
devices = names.filter(lambda n: n not in RESERVED).map(DeviceId)
rates = st.floats(1e-6, 1)
schedules = st.builds(
    Schedule,
    rounds=st.integers(1, 1000),
    local_epochs=st.integers(1, 100),
    learning_rate=rates,
    learning_rate_final_fraction=rates,
    server_momentum=st.floats(0, 0.99),
    server_learning_rate=rates,
    proximal_mu=st.floats(0, 100),
    example_clip=st.floats(2.0**-16, 1024),
    noise_multiplier=st.floats(0, 100),
)
policies = st.builds(
    RoundPolicy,
    suite=st.just("xwing-mldsa65"),
    codec=st.sampled_from(["q4", "q8"]),
    min_cohort=st.integers(1, 5),
    max_cohort=st.integers(5, 50),
    clip_norm=st.floats(0.1, 16),
    weight_cap=st.integers(1, 1000),
    deadline_s=st.integers(1, 1000),
    schedule=schedules,
)


@st.composite
def tallies(draw: st.DrawFn, classes: int = 0, examples_max: int = 1000) -> Tallies:
    """What an honest device may say, or a sum of that; 0 classes: any number of them."""
    classes = classes or draw(st.integers(1, 5))
    out, left = [], examples_max
    for _ in range(classes):
        examples = draw(st.integers(0, left))
        left -= examples
        out += [examples, *(draw(st.integers(0, examples)) for _ in range(2))]
    loss = st.integers(0, (examples_max - left) * LOSS_MAX)
    return (*out, draw(loss), draw(loss))


_SMALL = {
    "tallies": tallies(),
    "classes": st.integers(1, CLASSES_MAX),
    "round": st.integers(2, 2**31 - 1),
    "step": st.integers(1, 2),
    "epoch": st.integers(1, 2**40),
    "size": st.integers(1, 2**29),
    "permille": st.integers(0, 1000),
    "sealed_size": st.integers(1, 2**30),
    "model_size": st.integers(1, 2**30),
    "chunk": st.integers(1024, 262144),
    "correct": st.just(3),
    "examples": st.integers(3, 1000),
    "tier": st.integers(1, 3),
    "issued": st.integers(0, 2**31),
    "expires": st.integers(2**31 + 1, 2**40),
    "opened_at": st.integers(0, 2**40),
    "product": st.integers(0, 2**16 - 1),
    "measurement": digests,
    "allow_insecure": st.just(True),
    "indices": st.lists(st.integers(0, 2**20 - 1), min_size=1, max_size=8).map(tuple),
}


def _of(hint: Any, name: str) -> st.SearchStrategy[Any]:
    if name in _SMALL:
        return _SMALL[name]
    if get_origin(hint) is tuple:
        args = get_args(hint)
        if args[-1] is Ellipsis:
            return st.lists(_of(args[0], ""), max_size=4).map(tuple)
        return st.tuples(*(_of(arg, "") for arg in args))
    if get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of(*(_of(arg, "") for arg in get_args(hint)))
    if hint is type(None):
        return st.none()
    if hint is Digest:
        return digests
    if hint is RoundPolicy:
        return policies
    if hint is DeviceId:
        return devices
    if hint is FleetId:
        return names.map(FleetId)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(list(hint))
    if is_dataclass(hint):
        return record(typing.cast(type, hint))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(0, 2**31 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(max_size=20),
        bytes: st.binary(max_size=60),
        bool: st.booleans(),
    }
    return simple[hint]


_WORD = st.text("abcXYZ019-_", min_size=1, max_size=40)
_ENROLMENT: dict[str, st.SearchStrategy[Any]] = {
    "token": st.binary(min_size=16, max_size=16),
    "secret": st.binary(min_size=32, max_size=32),
    "nonce": st.binary(min_size=32, max_size=32),
    "mac": st.binary(min_size=32, max_size=32),
    "suite": st.just(DEFAULT.name),
    "verify_key": st.just(bytes(range(256)) * 7 + bytes(160)),
    "kem_key": st.just(bytes(1216)),
    "signature": st.just(bytes(3309)),
    "board": st.sampled_from(["", "rpi4", "jetson-orin-nano"]),
    "serial": st.sampled_from(["", "10000000abcdef01"]),
    "brokers": st.sampled_from([("mqtts://b:8883",), ("mqtt://127.0.0.1:1", "mqtts://[::1]:9")]),
    "user": _WORD,
    "password": _WORD,
    "issued_at": st.integers(1, 2**31),
    "retry_s": st.integers(0, 86_400),
}


_words = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
_healths = st.builds(
    report.Health,
    *[_words] * 5,
    gates=st.lists(st.builds(report.GateSays, _words, _words, _words), max_size=3).map(tuple),
    notices=st.lists(_words, max_size=4).map(tuple),
    figures=st.dictionaries(_words, st.integers(-(2**40), 2**40), max_size=5).map(
        lambda found: tuple(sorted(found.items()))
    ),
)


def record(cls: type) -> st.SearchStrategy[Any]:
    """Values of a record class that its own `__post_init__` accepts."""
    hints = get_type_hints(cls)
    if cls is report.Health:
        return _healths
    if cls is report.DeviceReport:
        fleet = st.just(FleetId.parse("demo"))
        count = st.integers(1, 2**20)
        return st.builds(report.DeviceReport, fleet, devices, count, count, _healths)
    if cls is RoundOffer:
        return st.builds(_offer, record(EnclaveClaims), policies, st.sets(devices, max_size=4))
    if cls.__module__ in (enrolment.__name__, ticket.__name__):
        given = {f.name: _ENROLMENT[f.name] for f in fields(cls) if f.name in _ENROLMENT}
        rest = {f.name: _of(hints[f.name], f.name) for f in fields(cls) if f.name not in given}
        if "expires_at" in rest:
            rest["expires_at"] = st.integers(2**31 + 1, 2**31 + 86_400)
            given["issued_at"] = st.integers(2**31 - 86_400, 2**31)
        return st.builds(cls, **given, **rest)
    return st.builds(cls, **{f.name: _of(hints[f.name], f.name) for f in fields(cls)})


def _offer(claims: EnclaveClaims, policy: RoundPolicy, cohort: set[DeviceId]) -> RoundOffer:
    listed = tuple(sorted(cohort))
    parts = {f.name: getattr(claims, f.name) for f in fields(claims)}
    claims = EnclaveClaims(**{**parts, "policy": policy.digest, "cohort": cohort_digest(listed)})
    return RoundOffer(
        fleet=claims.fleet,
        round=claims.round,
        policy=policy,
        cohort=listed,
        claims=claims,
        evidence=messages.Evidence("insecure_simulated", b"x"),
        checkpoint=messages.Checkpoint(0, messages.ZERO),
        closes_at=1,
    )


MESSAGES: list[type[Message]] = [
    kind
    for module in (messages, transfer, enclave_wire, enrolment, rollout, report)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
]
MESSAGES = list(dict.fromkeys(MESSAGES))

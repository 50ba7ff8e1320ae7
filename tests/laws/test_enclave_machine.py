"""Laws of the enclave under any order of events, with crashes after any effect."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enclave.events import Persist, Reply
from enclave.machine import Phase, Request, parse_request
from enclave.step import ServerOptimiser, StepState, step
from qflare.compression import parse_codec
from qflare.compression.codecs import decode
from qflare.enclave_wire import (
    Admit,
    Admitted,
    Ask,
    Refused,
    Release,
    Released,
    RoundOpened,
    Standing,
)
from qflare.faults import PeerFault
from qflare.tensors import FRACTION_BITS, weights_from_bytes
from tests.enclave_kit import SIZE, Driver, Fleet, after

FLEET = Fleet(count=5)
CODEC = parse_codec("q8")


def oracle(weights: bytes, state: bytes, admitted: dict[int, int]) -> tuple[bytes, bytes]:
    """The next model in exact rational arithmetic, rounded where the step says so."""
    total = sum(admitted.values())
    sums = [0] * SIZE
    for number, weight in admitted.items():
        units = decode(FLEET.payload(number).encoded, CODEC, SIZE).units()
        sums = [s + int(u) * weight for s, u in zip(sums, units, strict=True)]
    mean = np.array([float(Fraction(s, total << FRACTION_BITS)) for s in sums])
    momentum = StepState.from_bytes(state, SIZE) if state else StepState.initial(SIZE)
    optimiser = ServerOptimiser("fedavgm", 0.9, 1.0)
    after_, kept = step(weights_from_bytes(weights, SIZE), momentum, mean, optimiser)
    return after_.tobytes(), kept.to_bytes()


class EnclaveRounds(RuleBasedStateMachine):
    """A coordinator that does anything in any order, and a power supply that fails at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(FLEET)
        self.driver.ask(FLEET.configure())
        self.round = 0  # the highest that was opened
        self.open: RoundOpened | None = None
        self.request: Request | None = None
        self.sealed: dict[int, tuple[int, bytes]] = {}  # what each device made, once a round
        self.admitted: dict[int, int] = {}  # in the enclave's memory: device, weight
        self.last: tuple[RoundOpened, Released] | None = None
        self.released: dict[int, bytes] = {}

    def base(self) -> dict[str, Any]:
        return after(*self.last) if self.last else {"weights": FLEET.weights, "state": b""}

    def ask(self, request: Request, crash: int) -> Any:
        """Handle a request; with crash = k > 0 the power fails after effect k."""
        reply = None
        for done, effect in enumerate(self.driver.machine.handle(request), 1):
            match effect:
                case Persist():
                    self.driver.disk = effect.sealed
                case Reply():
                    reply = effect.message
            if done == crash:
                self.crash()
        return reply

    def insist(self, request: Request, crash: int) -> Any:
        """What a coordinator does that got no answer, or lost it: ask again."""
        first = self.ask(request, crash)
        if crash:
            again = self.driver.ask(request)
            assert first is None or not isinstance(first, RoundOpened | Released) or again == first
            return again
        return first

    @rule(gap=st.integers(1, 2), crash=st.integers(0, 2))
    def open_round(self, gap: int, crash: int) -> None:
        request = FLEET.open_request(self.round + gap, **self.base())
        self.round += gap
        reply = self.insist(request, crash)
        assert isinstance(reply, RoundOpened)
        self.open, self.request, self.admitted, self.sealed = reply, request, {}, {}

    @precondition(lambda self: self.open is not None)
    @rule()
    def open_again(self) -> None:
        assert self.request is not None
        assert self.driver.ask(self.request) == self.open

    @precondition(lambda self: self.open is not None)
    @rule(number=st.integers(0, 4), weight=st.integers(1, 100), crash=st.booleans())
    def admit(self, number: int, weight: int, crash: bool) -> None:
        assert self.open is not None
        device = FLEET.devices[number]
        if number not in self.sealed:
            payload = replace(FLEET.payload(number), weight=weight)
            self.sealed[number] = weight, device.seal(self.open.claims, payload)
        weight, update = self.sealed[number]
        was_in = number in self.admitted
        reply = self.ask(Admit(device.certificate, update), 0)
        assert isinstance(reply, Admitted)
        assert reply.again == was_in
        self.admitted[number] = weight
        if crash:
            self.crash()

    @precondition(lambda self: self.open is not None)
    @rule(number=st.integers(0, 4), weight=st.sampled_from([-1, 0, 101, 2**40]))
    def lie(self, number: int, weight: int) -> None:
        assert self.open is not None
        device = FLEET.devices[number]
        payload = replace(FLEET.payload(number), weight=weight)
        update = device.seal(self.open.claims, payload)
        assert isinstance(self.ask(Admit(device.certificate, update), 0), Refused)

    @precondition(lambda self: self.open is not None)
    @rule(crash=st.integers(0, 2))
    def release(self, crash: int) -> None:
        assert self.open is not None
        base, admitted = self.base(), dict(self.admitted)
        reply = self.insist(Release(self.round), crash)
        if len(admitted) < FLEET.policy.min_cohort:
            assert isinstance(reply, Refused)
            self.open = None
            return
        assert isinstance(reply, Released)
        assert (reply.weights, reply.state) == oracle(base["weights"], base["state"], admitted)
        receipt = self.driver.receipt(reply, self.open.claims)
        assert receipt.admitted == len(admitted)
        assert receipt.total_weight == sum(admitted.values())
        said = [FLEET.tallies(number) for number in admitted]
        assert receipt.tallies == tuple(map(sum, zip(*said, strict=True)))
        self.released[self.round] = reply.to_bytes()
        self.last, self.open = (self.open, reply), None

    @precondition(lambda self: self.last is not None)
    @rule()
    def release_again(self) -> None:
        last = max(self.released)
        assert self.driver.ask(Release(last)).to_bytes() == self.released[last]

    @rule(round_=st.integers(1, 12))
    def release_whatever(self, round_: int) -> None:
        """No number but the open one's and the last one's ever gives a model."""
        if self.open is not None and round_ == self.round:
            return
        reply = self.driver.ask(Release(round_))
        if isinstance(reply, Released):
            assert round_ == max(self.released)
            assert reply.to_bytes() == self.released[round_]

    @rule()
    def crash(self) -> None:
        self.driver.restart()
        self.admitted = {}

    @invariant()
    def standing(self) -> None:
        now = self.driver.ask(Ask())
        assert isinstance(now, Standing)
        assert now.open_round == (self.round if self.open else 0)
        assert now.admitted == len(self.admitted if self.open else {})
        assert now.released_round == max(self.released, default=0)
        assert (self.driver.machine.phase is Phase.OPEN) == (self.open is not None)


EnclaveRounds.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestEnclaveRounds = EnclaveRounds.TestCase


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_one_way(data: bytes) -> None:
    for frame in (data, b"\x83\x18\x2b" + data, b"\x87\x18\x2a" + data, b"\x82\x18\x28" + data):
        try:
            request = parse_request(frame)
        except PeerFault:
            continue
        assert request.to_bytes() == frame


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=4))
def test_neither_order_nor_copies_change_the_model(order: list[int], copies: list[int]) -> None:
    driver = Driver(FLEET)
    driver.ask(FLEET.configure())
    claims = driver.opened(FLEET.open_request()).claims
    admits = {number: FLEET.admit(number, claims) for number in order}
    for number in [*order, *copies]:
        driver.ask(admits[number])
    expected = oracle(FLEET.weights, b"", dict.fromkeys(range(5), 10))
    released = driver.released(1)
    assert (released.weights, released.state) == expected

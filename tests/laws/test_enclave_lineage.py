"""Laws of all enclaves that ever ran from one sealed state, under a host that does what it likes.

It runs several at once, brings back any state it has seen, repeats and mixes up requests, and
drives each machine by as many coordinators as it wants; the devices are shown every release.
No platform here has a counter. There is no privacy budget to spend yet: updates aren't noised.
"""

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from enclave.events import Persist, Reply
from enclave.machine import EnclaveMachine, Request
from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.enclave_wire import (
    Admit,
    Admitted,
    Configure,
    OpenRound,
    Refused,
    Release,
    Released,
    RoundOpened,
    Standing,
)
from qflare.envelope import open_signed, peek_signed
from qflare.merkle import root
from qflare.messages import Message, RoundReceipt, update_leaf
from qflare.names import Digest
from tests.enclave_kit import Fleet, after
from tests.lineage_kit import Uncounted, Witness, machine

FLEET = Fleet(count=4)
FLOOR = FLEET.policy.min_cohort
MANIFESTS = [FLEET.configure(version=version).manifest for version in (1, 2, 3)]
WHICH = st.integers(0, 10**6)  # taken modulo what there is
DEVICES = st.sets(st.integers(0, 3), min_size=1)
POLICIES = (FLEET.policy, replace(FLEET.policy, min_cohort=3), replace(FLEET.policy, max_cohort=3))
BEYOND = (replace(FLEET.policy, min_cohort=1), replace(FLEET.policy, clip_norm=9.0))


class Lineage(RuleBasedStateMachine):
    """Everything that a host which owns disk, socket and clock can do."""

    @initialize()
    def begin(self) -> None:
        self.machines: list[EnclaveMachine] = [machine(FLEET)]
        self.disks: list[bytes] = []
        self.requests: list[Request] = []
        self.opened: dict[Digest, tuple[RoundOpened, OpenRound]] = {}  # by claims
        self.updates: dict[tuple[Digest, int], list[Admit]] = {}  # what a device made for claims
        self.inside: dict[int, dict[Digest, dict[int, Admit]]] = {0: {}}  # by machine, claims
        self.released: dict[Digest, tuple[RoundOpened, Released]] = {}  # by claims
        self.keys: dict[bytes, Digest] = {}
        self.witnesses = [Witness(FLEET), Witness(FLEET)]
        for witness in self.witnesses:
            witness.manifest(MANIFESTS[0])
        self.ask(0, Configure(MANIFESTS[0]))

    def ask(self, at: int, request: Request, keep: bool = True) -> Message:
        """One request to one machine; what it sealed is the host's."""
        self.requests += [request] if keep else []
        reply = None
        for effect in self.machines[at].handle(request):
            match effect:
                case Persist():
                    self.disks.append(effect.sealed)
                case Reply():
                    reply = effect.message
        assert reply is not None
        match request, reply:
            case OpenRound(), RoundOpened():
                self.check_opened(request, reply)
            case Admit(), Admitted():
                self.check_admitted(at, request, reply)
            case Release(), Released():
                self.check_released(at, reply)
            case _:
                assert isinstance(reply, Refused | Standing)
        return reply

    # --- the laws ------------------------------------------------------------------------------

    def check_opened(self, request: OpenRound, reply: RoundOpened) -> None:
        """A key belongs to one offer, whose policy is within the owner's bounds."""
        claims = reply.claims
        assert request.policy in POLICIES
        assert claims.policy == request.policy.digest
        assert self.keys.setdefault(claims.kem_key, claims.digest) == claims.digest
        self.opened[claims.digest] = reply, request

    def check_admitted(self, at: int, request: Admit, reply: Admitted) -> None:
        """One update a device and offer, whatever else of it is tried."""
        (claims, number), made = next(
            (key, made) for key, made in self.updates.items() if request in made
        )
        assert made
        inside = self.inside[at].setdefault(claims, {})
        assert reply.again == (number in inside)
        assert inside.setdefault(number, request) == request

    def check_released(self, at: int, reply: Released) -> None:
        """Of one offer there is one release, with what was admitted, and never too few."""
        claims = peek_signed(RoundReceipt, reply.receipt).claims
        opened, request = self.opened[claims]
        key = VerifyKey.parse(DEFAULT, opened.claims.signing_key)
        receipt = open_signed(RoundReceipt, reply.receipt, key)
        known = self.released.setdefault(claims, (opened, reply))
        assert known[1].to_bytes() == reply.to_bytes()
        assert FLOOR <= request.policy.min_cohort <= receipt.admitted <= request.policy.max_cohort
        if claims in self.inside[at]:  # else it is another life of this machine that admitted
            inside = self.inside[at][claims]
            leaves = sorted(
                (FLEET.devices[number].name, Digest.of(admit.update))
                for number, admit in inside.items()
            )
            assert receipt.admitted == len(leaves)
            assert receipt.updates == root(update_leaf(*leaf) for leaf in leaves)

    # --- what the host does --------------------------------------------------------------------

    def some(self, which: int) -> int:
        return which % len(self.machines)

    @rule(
        at=WHICH,
        number=st.integers(1, 6),
        opened_at=st.sampled_from([0, 1_000, 2**41, 2**63 - 1]),
        policy=st.sampled_from((*POLICIES, *POLICIES, *BEYOND)),
        base=st.none() | WHICH,
    )
    def open_round(
        self, at: int, number: int, opened_at: int, policy: Any, base: int | None
    ) -> None:
        at, given = self.some(at), {}
        if base is not None and self.released:
            given = after(*list(self.released.values())[base % len(self.released)])
        request = FLEET.open_request(number, opened_at=opened_at, policy=policy, **given)
        reply = self.ask(at, request)
        if opened_at >= FLEET.manifest.expires or policy in BEYOND:
            assert isinstance(reply, Refused)

    @precondition(lambda self: self.opened)
    @rule(at=WHICH, offer=WHICH, device=st.integers(0, 3), other=st.booleans())
    def admit(self, at: int, offer: int, device: int, other: bool) -> None:
        """An update of any offer to any machine; with `other`, another one of the same device."""
        opened, _ = list(self.opened.values())[offer % len(self.opened)]
        made = self.updates.setdefault((opened.claims.digest, device), [])
        if other or not made:
            made.append(FLEET.admit(device, opened.claims))
        self.ask(self.some(at), made[-1])

    @precondition(lambda self: self.opened)
    @rule(at=WHICH, devices=DEVICES)
    def whole_round(self, at: int, devices: set[int]) -> None:
        """What is rarely hit by chance: several updates for what is open there, and its release."""
        at = self.some(at)
        desk = self.machines[at]._desk
        if desk is None:
            return
        claims = desk.context.claims
        for device in devices:
            made = self.updates.setdefault((claims.digest, device), [])
            made += [] if made else [FLEET.admit(device, claims)]
            self.ask(at, made[0])
        self.ask(at, Release(claims.round))

    @rule(at=WHICH, number=st.integers(1, 6))
    def release(self, at: int, number: int) -> None:
        self.ask(self.some(at), Release(number))

    @rule(at=WHICH, version=st.integers(0, 2))
    def configure(self, at: int, version: int) -> None:
        """Also in the middle of a round, and back."""
        self.ask(self.some(at), Configure(MANIFESTS[version]))

    @precondition(lambda self: self.requests)
    @rule(at=WHICH, which=WHICH)
    def replay(self, at: int, which: int) -> None:
        """Whatever was ever asked of any machine, to any other."""
        request = self.requests[which % len(self.requests)]
        self.ask(self.some(at), request, keep=False)

    @precondition(lambda self: self.disks)
    @rule(at=WHICH, disk=WHICH)
    def bring_back(self, at: int, disk: int) -> None:
        """A machine starts again from any state that was ever on the disk."""
        at = self.some(at)
        sealed = self.disks[disk % len(self.disks)]
        self.machines[at] = machine(FLEET, Uncounted, sealed)
        self.inside[at] = {}

    @precondition(lambda self: self.disks)
    @rule(at=WHICH, back=st.integers(1, 3), one=DEVICES, two=DEVICES)
    def round_twice(self, at: int, back: int, one: set[int], two: set[int]) -> None:
        """A round, and the same again with others from one of the last states before its end."""
        before = len(self.disks)
        self.whole_round(at, one)
        self.bring_back(at, max(0, before - back))
        self.whole_round(at, two)

    @precondition(lambda self: self.disks and len(self.machines) < 4)
    @rule(disk=st.none() | WHICH)
    def fork(self, disk: int | None) -> None:
        """One more machine: from any old state, or without memory."""
        sealed = None if disk is None else self.disks[disk % len(self.disks)]
        self.machines.append(machine(FLEET, Uncounted, sealed))
        self.inside[len(self.machines) - 1] = {}

    @precondition(lambda self: self.released)
    @rule(which=WHICH, witness=st.integers(0, 1), newer=st.booleans())
    def show(self, which: int, witness: int, newer: bool) -> None:
        """To a device, which never takes two releases of one round (the witness asserts it)."""
        if newer:
            self.witnesses[witness].manifest(MANIFESTS[2])
        opened, released = list(self.released.values())[which % len(self.released)]
        self.witnesses[witness].take(opened, released)


Lineage.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLineage = Lineage.TestCase

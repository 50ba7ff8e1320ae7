"""The enclave's state machine: requests in, effects out; no clock, no file, no socket.

`Persist` comes before `Reply`, and a reply is true only once the state before it is durable: after
a crash at any point the machine is made again from the last persisted state, and the coordinator,
which repeats what was not answered, gets the answer that it would have got.
"""

import hmac
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from enclave.admission import CertificateDesk, RoundContext
from enclave.desk import AdmissionDesk
from enclave.events import Effect, Persist, Reply
from enclave.evidence.base import EvidenceProvider
from enclave.opening import check_opening, choose_cohort
from enclave.state import VERSION, Opened, State, request_digest
from enclave.step import ServerOptimiser, StepState, step
from qflare.crypto.certificates import CERTIFICATE_MAX
from qflare.crypto.keys import KemPrivateKey, SigningKey, VerifyKey
from qflare.crypto.provider import provider_of
from qflare.enclave_wire import (
    REQUESTS,
    SLACK,
    Admit,
    Ask,
    Configure,
    OpenRound,
    Refused,
    Release,
    Released,
    RoundOpened,
    Standing,
)
from qflare.envelope import open_signed, sign
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.messages import KIB, ZERO, EnclaveClaims, Message, RoundReceipt, cohort_digest
from qflare.names import Digest, FleetId
from qflare.owners import Owners, open_manifest
from qflare.policy import OwnerManifest
from qflare.record import check
from qflare.tensors import weights_from_bytes, weights_to_bytes

Request = Configure | OpenRound | Admit | Release | Ask
_BY_TAG: dict[int, type[Request]] = {kind.TAG: kind for kind in REQUESTS}
_DETAIL_MAX = 200  # characters of a refusal's detail
_SMALL = 64 * KIB  # bytes of a request that can't do anything now


class Phase(StrEnum):
    """Where the enclave stands."""

    UNCONFIGURED = "unconfigured"
    IDLE = "idle"
    OPEN = "open"
    RELEASED = "released"


_U, _I, _O, _R = Phase.UNCONFIGURED, Phase.IDLE, Phase.OPEN, Phase.RELEASED
TRANSITIONS: dict[tuple[Phase, type[Request]], frozenset[Phase]] = {
    (_U, Ask): frozenset({_U}),
    (_U, Configure): frozenset({_U, _I}),
    (_I, Ask): frozenset({_I}),
    (_I, Configure): frozenset({_I}),
    (_I, OpenRound): frozenset({_I, _O}),
    (_I, Release): frozenset({_I}),  # the last release again, if there is one
    (_O, Ask): frozenset({_O}),
    (_O, Configure): frozenset({_O, _I}),  # a newer manifest abandons the open round
    (_O, OpenRound): frozenset({_O}),  # the same again, or a higher round
    (_O, Admit): frozenset({_O}),
    (_O, Release): frozenset({_O, _R, _I}),  # below the minimum cohort: abandoned
    (_R, Ask): frozenset({_R}),
    (_R, Configure): frozenset({_R, _I}),
    (_R, OpenRound): frozenset({_R, _O}),
    (_R, Release): frozenset({_R}),
}
_REFUSAL: dict[type[Request], Reason] = {
    OpenRound: Reason.POLICY_NOT_ALLOWED,
    Admit: Reason.ROUND_CLOSED,
    Release: Reason.ROUND_CLOSED,
}


def parse_request(frame: bytes) -> Request:
    """Parse one frame's bytes; raise PeerFault for anything but a request in its one spelling."""
    kind = request_kind(frame)
    if kind is None:
        raise PeerFault(Reason.MALFORMED, "no request")
    return kind.parse(frame)


def request_kind(frame: bytes) -> type[Request] | None:
    """What a frame claims to be by its first three bytes; None if it is no request."""
    return _BY_TAG.get(frame[2]) if len(frame) > 2 and frame[1] == 0x18 else None


class EnclaveMachine:
    """Give it one request at a time; only `Admit` may be handled by several threads at once."""

    def __init__(
        self,
        fleet: FleetId,
        owner_key: VerifyKey,
        provider: EvidenceProvider,
        random: Callable[[int], bytes],
        sealed: bytes | None = None,
        insecure_seed: int | None = None,
    ) -> None:
        """Start afresh, or go on from `sealed`, the last state that was persisted.

        A platform without a key of its own seals to no bytes, and starts afresh each time.
        `insecure_seed` makes the choice of cohorts reproducible. Raises LocalFault if `sealed`
        cannot be read here.
        """
        self._fleet, self._owner_key = fleet, owner_key
        self._suite = owner_key.suite
        provider_of(self._suite)  # before the process is shut in: it may have a library to load
        self._provider, self._random = provider, random
        if not sealed:
            secret = random(32)
            if insecure_seed is not None:
                secret = Digest.of(b"qflare/1/insecure-seed\0", str(insecure_seed).encode()).raw
            signing_seed = random(self._suite.signing_seed_length)
            self._state = State(VERSION, signing_seed, secret, 0, 0, b"", None, b"", b"", b"")
        else:
            self._state = State.restore(provider.unseal(sealed))
        self._signing_key = SigningKey.from_seed(self._suite, self._state.signing_seed)
        self._desk: AdmissionDesk | None = None
        self._restore()

    def _restore(self) -> None:
        """Build what is derived from the state."""
        state = self._state
        self._manifest: OwnerManifest | None = None
        self._owners: Owners | None = None
        self._receipt: RoundReceipt | None = None
        try:
            if state.manifest:
                self._adopt(*open_manifest(state.manifest, self._owner_key, self._fleet))
            if state.receipt:
                own = self._signing_key.verify_key
                self._receipt = open_signed(RoundReceipt, state.receipt, own)
            if state.opened:
                self._desk = AdmissionDesk(self._context(state.opened))
        except PeerFault as fault:
            raise LocalFault(
                f"the enclave's state and its configuration don't belong together ({fault}); "
                "start it with the owner key and fleet that it had, or move the state away"
            ) from None

    @property
    def phase(self) -> Phase:
        """Where the machine stands."""
        if self._manifest is None:
            return Phase.UNCONFIGURED
        if self._state.opened is not None:
            return Phase.OPEN
        if self._receipt is not None and self._receipt.round == self._state.highest_round:
            return Phase.RELEASED
        return Phase.IDLE

    @property
    def measurement(self) -> Digest:
        """Of this code, as its platform took it."""
        return self._provider.measurement

    def frame_ceiling(self, kind: type[Request] | None) -> int:
        """The longest frame of this kind, in bytes, that could be of use now: known before it is
        read, so that a peer can make us hold no more than the model asks for."""
        if kind is OpenRound and self._manifest is not None:
            return 8 * self._manifest.genesis.size + 8 * SLACK
        if kind is Admit and (desk := self._desk) is not None:
            return desk.context.ceiling + CERTIFICATE_MAX + 32
        return Configure.CEILING if kind is Configure else _SMALL

    def refuse_oversize(self, kind: type[Request] | None, length: int) -> Refused:
        """The answer to a frame above its ceiling, which was not read."""
        if kind is None:
            return refusal(PeerFault(Reason.MALFORMED, "no request"))
        if (self.phase, kind) not in TRANSITIONS:
            return refusal(PeerFault(_REFUSAL[kind], f"not while {self.phase}"))
        return refusal(PeerFault(Reason.TOO_LARGE, f"{kind.__name__} of {length} bytes"))

    def handle(self, request: Request) -> list[Effect]:
        """Answer one request: effects, of which the last is the Reply. Raises LocalFault only."""
        phase, kind = self.phase, type(request)
        allowed = TRANSITIONS.get((phase, kind))
        if allowed is None:
            return [_refused(PeerFault(_REFUSAL[kind], f"not while {phase}"))]
        try:
            effects = self._dispatch(request)
        except PeerFault as fault:
            effects = [_refused(fault)]
        if kind is not Admit and self.phase not in allowed:
            raise LocalFault(f"{kind.__name__} led from {phase} to {self.phase}; report this bug")
        return effects

    def _dispatch(self, request: Request) -> list[Effect]:
        match request:
            case Ask():
                return [Reply(self._standing())]
            case Configure():
                return self._configure(request)
            case OpenRound():
                return self._open_round(request)
            case Admit():
                desk = self._desk
                check(desk is not None, "no open round", Reason.ROUND_CLOSED)
                assert desk is not None  # noqa: S101 - for the type checker
                return [Reply(desk.admit(request))]
            case Release():
                return self._release(request)

    def _commit(self, state: State, reply: Message) -> list[Effect]:
        self._state = state
        # An epoch's key stays in memory, unless the platform notices when older states come back.
        whole = getattr(self._provider, "keeps_rounds", False)
        kept = state if whole else state.closed()
        return [Persist(self._provider.seal(kept.to_bytes())), Reply(reply)]

    def _standing(self) -> Standing:
        opened, manifest = self._state.opened, self._manifest
        return Standing(
            provider=self._provider.name,
            measurement=self._provider.measurement,
            manifest=manifest.digest if manifest else ZERO,
            open_round=self._state.highest_round if opened else 0,
            admitted=self._desk.count if self._desk else 0,
            released_round=self._receipt.round if self._receipt else 0,
        )

    # --- Configure -----------------------------------------------------------------------------

    def _configure(self, request: Configure) -> list[Effect]:
        seen = self._owners.seen if self._owners else None
        manifest, owners = open_manifest(request.manifest, self._owner_key, self._fleet, seen)
        if self._manifest is not None:
            self._manifest.verify_successor(manifest)
            if manifest == self._manifest:
                return [Reply(self._standing())]
        self._adopt(manifest, owners)
        self._desk = None
        self._state = replace(self._state.closed(), manifest=request.manifest)
        return self._commit(self._state, self._standing())

    def _adopt(self, manifest: OwnerManifest, owners: Owners) -> None:
        self._certificates = CertificateDesk(manifest)
        self._manifest, self._owners = manifest, owners

    # --- OpenRound -----------------------------------------------------------------------------

    def _open_round(self, request: OpenRound) -> list[Effect]:
        state, manifest, name = self._state, self._manifest, request_digest(request)
        assert manifest is not None  # noqa: S101 - the table says so
        if state.opened is not None and request.round == state.highest_round:
            if name != state.opened.request:
                raise PeerFault(Reason.EQUIVOCATION, f"round {request.round} was opened otherwise")
            return [Reply(RoundOpened.parse(state.opened.reply))]
        if request.round <= state.highest_round:
            raise PeerFault(Reason.WRONG_ROUND, f"round {request.round} is spent")
        manifest.verify_current(request.opened_at)
        base = check_opening(request, manifest, self._receipt)
        seed = base.seed or self._next_seed(ZERO, 0)
        cohort = choose_cohort(request, seed)
        kem_key = KemPrivateKey.generate(self._suite, self._random)
        claims = EnclaveClaims(
            fleet=self._fleet,
            suite=self._suite.name,
            manifest=manifest.digest,
            round=request.round,
            opened_at=request.opened_at,
            epoch=max(state.epoch, base.epoch) + 1,
            step=base.step + 1,
            policy=request.policy.digest,
            cohort=cohort_digest(cohort),
            model=base.model,
            state=base.state,
            receipt=base.receipt,
            kem_key=kem_key.public.raw,
            signing_key=self._signing_key.verify_key.raw,
        )
        reply = RoundOpened(cohort, claims, self._provider.quote(claims.report_data))
        opened = Opened(name, request.policy, seed, kem_key.to_seed(), reply.to_bytes())
        desk = AdmissionDesk(self._context(opened))  # before anything changes: it may refuse
        self._desk = desk
        following = replace(
            state,
            epoch=claims.epoch,
            highest_round=request.round,
            opened=opened,
            weights=request.weights,
            optimiser=request.state,
        )
        return self._commit(following, reply)

    def _context(self, opened: Opened) -> RoundContext:
        assert self._manifest is not None  # noqa: S101 - a round is opened under a manifest
        reply = RoundOpened.parse(opened.reply)
        key = KemPrivateKey.from_seed(self._suite, opened.kem_seed)
        genesis = self._manifest.genesis
        return RoundContext.of(
            reply.claims, reply.cohort, opened.policy, genesis, key, self._certificates
        )

    def _next_seed(self, seed: Digest, step_: int) -> Digest:
        """The chain of cohort seeds: known to nobody before its receipt, and the same whatever is
        admitted or abandoned, so that there is nothing to grind."""
        words = b"qflare/1/cohort-seed\0" + seed.raw + step_.to_bytes(8, "big")
        return Digest(hmac.digest(self._state.seed_secret, words, "sha256"))

    # --- Release -------------------------------------------------------------------------------

    def _release(self, request: Release) -> list[Effect]:
        state, opened, desk = self._state, self._state.opened, self._desk
        if self._receipt is not None and request.round == self._receipt.round:
            return [Reply(Released(state.receipt, state.weights, state.optimiser))]
        if opened is None or desk is None or request.round < state.highest_round:
            raise PeerFault(Reason.ROUND_CLOSED, f"round {request.round} is not open")
        if request.round > state.highest_round:
            raise PeerFault(Reason.WRONG_ROUND, f"round {state.highest_round} is open")
        try:
            released, receipt = self._step(opened, desk)
        except (PeerFault, LocalFault) as fault:
            # Below the minimum cohort, or a step out of float32's range: the round is abandoned.
            if not isinstance(fault, PeerFault):
                fault = PeerFault(Reason.NOT_FINITE, str(fault))
            self._desk = None
            return [*self._commit(state.closed(), refusal(fault))]
        self._desk, self._receipt = None, receipt
        following = replace(
            state.closed(),
            receipt=released.receipt,
            weights=released.weights,
            optimiser=released.state,
        )
        return self._commit(following, released)

    def _step(self, opened: Opened, desk: AdmissionDesk) -> tuple[Released, RoundReceipt]:
        """Aggregate, step, sign; raise PeerFault(BELOW_MIN_COHORT) before anything is computed."""
        claims, schedule = desk.context.claims, opened.policy.schedule
        size = desk.context.limits.size
        before = weights_from_bytes(self._state.weights, size)
        momentum = StepState.initial(size)
        if self._state.optimiser:
            momentum = StepState.from_bytes(self._state.optimiser, size)
        optimiser = ServerOptimiser(
            "fedavgm", schedule.server_momentum, schedule.server_learning_rate
        )
        after, moved = step(before, momentum, desk.mean(), optimiser)
        weights, optimiser_state = weights_to_bytes(after), moved.to_bytes()
        receipt = RoundReceipt(
            fleet=claims.fleet,
            manifest=claims.manifest,
            round=claims.round,
            epoch=claims.epoch,
            step=claims.step,
            claims=desk.context.digest,
            policy=claims.policy,
            previous_receipt=claims.receipt,
            previous_model=claims.model,
            model=Digest.of(weights),
            state=Digest.of(optimiser_state),
            admitted=desk.count,
            refused=desk.refused,
            total_weight=desk.total_weight,
            updates=desk.root(),
            seed=self._next_seed(opened.seed, claims.step),
            tallies=desk.tallies,
        )
        return Released(sign(receipt, self._signing_key), weights, optimiser_state), receipt


def refusal(fault: PeerFault) -> Refused:
    """The wire form of a refusal."""
    return Refused(fault.reason.value, fault.detail[:_DETAIL_MAX])


def _refused(fault: PeerFault) -> Reply:
    return Reply(refusal(fault))

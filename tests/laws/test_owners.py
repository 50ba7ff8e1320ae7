"""No manifest is taken that lacks a threshold, goes back or forks; who slept is carried along."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qflare import codec
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import sign
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.manifest import signing
from qflare.names import Digest, FleetId
from qflare.owners import Owned, Owners, Seen, open_manifest, open_owned
from qflare.policy import (
    AppraisalPolicy,
    Genesis,
    OwnerManifest,
    PolicyBounds,
    ReferenceValue,
)

FLEET = FleetId("orchard")
KEYS = [SigningKey.generate(DEFAULT) for _ in range(6)]
PINNED = KEYS[0].verify_key
START = signing.pinned(FLEET, PINNED.raw)
BY_RAW = {key.verify_key.raw: key for key in KEYS}
MANIFEST = OwnerManifest(
    fleet=FLEET,
    version=1,
    issued=0,
    expires=2**40,
    suite=DEFAULT.name,
    coordinator_key=KEYS[0].verify_key.raw,
    device_cas=(b"a CA",),
    revoked=(),
    genesis=Genesis(Digest.of(b"g"), Digest.of(b"w"), (("w", (1,)),), 1),
    bounds=PolicyBounds((DEFAULT.name,), ("q8",), 2, 8.0, 1000),
    reference_values=(ReferenceValue("process", Digest.of(b"code")),),
    appraisal=AppraisalPolicy(tier=1),
    allow_insecure=False,
)


def raws(keys: Iterable[SigningKey]) -> list[bytes]:
    return [key.verify_key.raw for key in keys]


def owners_of(before: Owners, threshold: int, keys: Iterable[SigningKey]) -> Owners:
    return signing.successors(before, threshold, raws(keys))


def signed(owners: Owners, before: Owned | None, keys: Iterable[SigningKey], version: int) -> Owned:
    message = replace(MANIFEST, version=version, owners=owners.number)
    owned = signing.begin(message, before, owners)
    for key in keys:
        owned = signing.add(owned, START, OwnerManifest, key)
    return owned


def refusal(owned: Owned | bytes, seen: Seen | None = None) -> PeerFault:
    data = owned if isinstance(owned, bytes) else signing.to_bytes(owned)
    with pytest.raises(PeerFault) as caught:
        open_manifest(data, PINNED, FLEET, seen)
    return caught.value


TWO_OF_THREE = owners_of(START, 2, KEYS[1:4])
FIRST_CHANGE = signed(TWO_OF_THREE, None, [KEYS[0], KEYS[1], KEYS[2]], 2)


class TestOnePinnedOwner:
    def test_is_a_signed_message_like_any_other(self) -> None:
        message, owners = open_manifest(sign(MANIFEST, KEYS[0]), PINNED, FLEET)
        assert (message, owners) == (MANIFEST, START)

    def test_and_the_tools_write_the_same_form(self) -> None:
        value = codec.decode(signing.to_bytes(signed(START, None, KEYS[:1], 1)), 2**20)
        assert isinstance(value, list)
        assert len(value) == 2

    def test_another_key_is_refused(self) -> None:
        assert refusal(sign(MANIFEST, KEYS[1])).reason is Reason.BAD_SIGNATURE

    def test_another_fleet_suite_or_number_of_owners_is_refused(self) -> None:
        other = replace(MANIFEST, fleet=FleetId("vineyard"))
        assert refusal(sign(other, KEYS[0])).reason is Reason.WRONG_FLEET
        other = replace(MANIFEST, suite="frodo640aes-mldsa44")
        assert refusal(sign(other, KEYS[0])).reason is Reason.WRONG_SUITE
        other = replace(MANIFEST, owners=1)
        assert refusal(sign(other, KEYS[0])).reason is Reason.BAD_SIGNATURE

    def test_the_long_form_without_a_change_is_a_second_spelling(self) -> None:
        body, signature = MANIFEST.to_bytes(), KEYS[0].sign("owner-manifest", MANIFEST.to_bytes())
        fault = refusal(codec.encode([body, [[0, signature.raw]], []]))
        assert "without one" in fault.detail


class TestChange:
    def test_is_followed_from_the_pinned_key(self) -> None:
        manifest, owners = open_manifest(FIRST_CHANGE.to_bytes(), PINNED, FLEET)
        assert (manifest.version, owners) == (2, TWO_OF_THREE)
        open_manifest(FIRST_CHANGE.to_bytes(), PINNED, FLEET, START.seen)
        open_manifest(FIRST_CHANGE.to_bytes(), PINNED, FLEET, owners.seen)

    @pytest.mark.parametrize(
        ("keys", "said"),
        [
            ([KEYS[1], KEYS[2]], "0 owners of 1"),  # the old one didn't
            ([KEYS[0], KEYS[1]], "1 owners of 2"),  # not enough of the new
            ([KEYS[0]], "0 owners of 2"),
        ],
    )
    def test_needs_the_thresholds_of_old_and_new(self, keys: list[SigningKey], said: str) -> None:
        fault = refusal(signed(TWO_OF_THREE, None, keys, 2))
        assert (fault.reason, said in fault.detail) == (Reason.BAD_SIGNATURE, True)

    def test_the_manifest_needs_the_threshold_too(self) -> None:
        fault = refusal(replace(FIRST_CHANGE, signatures=FIRST_CHANGE.signatures[:1]))
        assert (fault.reason, fault.detail) == (Reason.BAD_SIGNATURE, "signed by 1 owners of 2")

    def test_one_key_counts_once(self) -> None:
        one = FIRST_CHANGE.signatures[0]
        again = (one[0], KEYS[1].sign("owner-manifest", FIRST_CHANGE.body).raw)
        for twice in ((one, one), (one, again), FIRST_CHANGE.signatures[::-1]):
            fault = refusal(replace(FIRST_CHANGE, signatures=twice))
            assert "out of order" in fault.detail
        with pytest.raises(PeerFault, match="twice"):
            Owners(FLEET, 1, 2, tuple(raws([KEYS[1], KEYS[1]])))
        with pytest.raises(LocalFault, match="signed already"):
            signing.add(FIRST_CHANGE, START, OwnerManifest, KEYS[1])

    def test_a_signature_at_another_keys_place_is_false(self) -> None:
        (_, first), (_, second) = FIRST_CHANGE.signatures
        fault = refusal(replace(FIRST_CHANGE, signatures=((0, second), (1, first))))
        assert fault.reason is Reason.BAD_SIGNATURE

    def test_every_signature_has_to_be_true_even_above_the_threshold(self) -> None:
        false = (2, KEYS[5].sign("owner-manifest", FIRST_CHANGE.body).raw)
        free = {0, 1, 2} - {number for number, _ in FIRST_CHANGE.signatures}
        given = dict(FIRST_CHANGE.signatures) | {free.pop(): false[1]}
        fault = refusal(replace(FIRST_CHANGE, signatures=tuple(sorted(given.items()))))
        assert fault.reason is Reason.BAD_SIGNATURE

    @pytest.mark.parametrize("number", [-1, 3, 2**40])
    def test_a_signature_of_no_key_is_refused(self, number: int) -> None:
        given = tuple(sorted([*FIRST_CHANGE.signatures, (number, bytes(3309))]))
        assert "no key" in refusal(replace(FIRST_CHANGE, signatures=given)).detail

    def test_the_words_of_a_manifest_are_no_change_of_owners(self) -> None:
        body, before, after = FIRST_CHANGE.changes[0]
        wrong = ((0, KEYS[0].sign("owner-manifest", body).raw),)
        fault = refusal(replace(FIRST_CHANGE, changes=((body, wrong, after),)))
        assert fault.reason is Reason.BAD_SIGNATURE
        assert before != wrong

    def test_of_another_fleet_is_refused(self) -> None:
        other = replace(TWO_OF_THREE, fleet=FleetId("vineyard"))
        assert refusal(signed(other, None, KEYS[:3], 2)).reason is Reason.WRONG_FLEET

    def test_can_not_skip_a_number(self) -> None:
        other = replace(TWO_OF_THREE, number=2)
        assert "out of order" in refusal(signed(other, None, KEYS[:3], 2)).detail

    def test_the_pinned_key_alone_speaks_no_more(self) -> None:
        later = sign(replace(MANIFEST, version=9), KEYS[0])
        assert refusal(later, TWO_OF_THREE.seen).reason is Reason.ROLLBACK
        open_manifest(later, PINNED, FLEET)  # to who never heard of the change, it does

    def test_a_fork_by_the_old_owner_is_refused(self) -> None:
        """A stolen pinned key appoints its thief, to a verifier that met the true successors."""
        thief = owners_of(START, 1, [KEYS[5]])
        fork = signed(thief, None, [KEYS[0], KEYS[5]], 9)
        open_manifest(fork.to_bytes(), PINNED, FLEET)
        assert refusal(fork, TWO_OF_THREE.seen).reason is Reason.ROLLBACK
        longer = signed(owners_of(thief, 1, [KEYS[4]]), fork, [KEYS[5], KEYS[4]], 10)
        assert refusal(longer, TWO_OF_THREE.seen).reason is Reason.ROLLBACK

    def test_carries_a_release_as_well(self) -> None:
        again = signing.begin(MANIFEST, FIRST_CHANGE, TWO_OF_THREE)
        for key in KEYS[2:4]:
            again = signing.add(again, START, OwnerManifest, key)
        assert open_owned(OwnerManifest, again.to_bytes(), PINNED, FLEET)[1] == TWO_OF_THREE


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_no_changed_byte_is_taken(data: st.DataObject) -> None:
    whole = FIRST_CHANGE.to_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    refusal(bytes(changed))


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=20), max_size=4).map(codec.encode))
def test_garbage_is_a_fault_and_nothing_else(data: bytes) -> None:
    refusal(data)


@dataclass
class Verifier:
    """A device's or an enclave's memory of manifests."""

    seen: Seen | None = None
    version: int = 0

    def take(self, data: bytes) -> OwnerManifest:
        manifest, owners = open_manifest(data, PINNED, FLEET, self.seen)
        if manifest.version < self.version:
            raise PeerFault(Reason.ROLLBACK, "older")
        self.seen, self.version = owners.seen, manifest.version
        return manifest


class Owning(RuleBasedStateMachine):
    """True owners change as they please; an attacker has any keys below the threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.owners, self.latest = START, signed(START, None, KEYS[:1], 1)
        self.history = [START]
        self.version = 1
        self.true: set[bytes] = set()
        self.awake, self.sleeper = Verifier(), Verifier()
        self._heard()

    def _heard(self) -> None:
        self.true.add(self.latest.body)
        self.awake.take(signing.to_bytes(self.latest))

    def _keys(self, owners: Owners) -> list[SigningKey]:
        return [BY_RAW[raw] for raw in owners.keys]

    @rule(data=st.data())
    def sign_next(self, data: st.DataObject) -> None:
        self.version += 1
        keys = data.draw(st.permutations(self._keys(self.owners)))
        several = data.draw(st.integers(self.owners.threshold, len(keys)))
        self.latest = signed(self.owners, self.latest, keys[:several], self.version)
        self._heard()

    @precondition(lambda self: len(self.history) < 5)
    @rule(data=st.data())
    def change_owners(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True))
        threshold = data.draw(st.integers(1, len(keys)))
        after = owners_of(self.owners, threshold, keys)
        if after == self.owners:
            return
        self.version += 1
        everybody = {*raws(keys), *self.owners.keys}
        order = [BY_RAW[raw] for raw in data.draw(st.permutations(sorted(everybody)))]
        self.latest = signed(after, self.latest, order, self.version)
        self.history.append(after)
        self.owners = after
        self._heard()

    @rule(data=st.data())
    def too_few_sign(self, data: st.DataObject) -> None:
        keys = data.draw(st.permutations(self._keys(self.owners)))[: self.owners.threshold - 1]
        forged = signed(self.owners, self.latest, keys, self.version + 1)
        self._refused(lambda: signing.to_bytes(forged))

    @rule(data=st.data())
    def too_few_appoint(self, data: st.DataObject) -> None:
        few = data.draw(st.permutations(self._keys(self.owners)))[: self.owners.threshold - 1]
        thief = data.draw(st.sampled_from(KEYS))
        after = owners_of(self.owners, 1, [thief])
        if after == self.owners:
            return
        keys = {key.verify_key.raw: key for key in (*few, thief)}
        if thief.verify_key.raw in self.owners.keys and len(keys) >= self.owners.threshold:
            return
        self._refused(signed(after, self.latest, keys.values(), self.version + 1).to_bytes)

    @precondition(lambda self: len(self.history) > 1)
    @rule(data=st.data())
    def former_owners_go_on(self, data: st.DataObject) -> None:
        """All keys of any former owners, and whomever they appoint: a fork of the true line."""
        at = data.draw(st.integers(0, len(self.history) - 2))
        former = self.history[at]
        before = replace(self.latest, changes=self.latest.changes[:at]) if at else None
        if data.draw(st.booleans()):
            forged = signed(former, before, self._keys(former), self.version + 1)
            self._refused(lambda: signing.to_bytes(forged))
            return
        thief = owners_of(former, 1, [data.draw(st.sampled_from(KEYS))])
        if thief in (former, self.history[at + 1]):
            return
        keys = {raw: BY_RAW[raw] for raw in (*former.keys, *thief.keys)}
        self._refused(signed(thief, before, keys.values(), self.version + 1).to_bytes)

    @rule()
    def an_old_manifest_again(self) -> None:
        if self.version > 1:
            self._refused(lambda: sign(MANIFEST, KEYS[0]))

    @rule()
    def the_sleeper_wakes(self) -> None:
        manifest = self.sleeper.take(signing.to_bytes(self.latest))
        assert manifest.version == self.version
        assert self.sleeper == self.awake

    def _refused(self, make: Callable[[], bytes]) -> None:
        before = replace(self.awake)
        with pytest.raises((PeerFault, LocalFault)):
            self.awake.take(make())
        assert self.awake == before

    @invariant()
    def nothing_untrue_was_taken(self) -> None:
        assert (self.awake.seen, self.awake.version) == (self.owners.seen, self.version)


TestOwning = Owning.TestCase
TestOwning.settings = settings(
    max_examples=30,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

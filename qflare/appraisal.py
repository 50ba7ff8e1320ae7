"""Appraisal (RATS, the verifier of RFC 9334): Evidence + reference values -> AttestationResult.

The same steps run on every device, before it seals a byte, in the coordinator, before it offers a
round, and in `qflare enclave verify`. Formats are verified by qflare/verifiers; here their facts
meet what the owner's manifest wants, in one order, and the first step that fails ends it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from qflare.faults import Reason
from qflare.messages import EnclaveClaims, Evidence
from qflare.names import Digest
from qflare.policy import OwnerManifest, ReferenceValue
from qflare.record import check
from qflare.verifiers import simulated
from qflare.verifiers.facts import Facts, Tier, refused

_LISTED = ("sgx", "tdx")  # whose vendor numbers the lists by which platforms are judged
_OWN_KEY = ("process", "tpm")  # evidence by a key that only the owner vouches for


@dataclass(frozen=True)
class AttestationResult:
    """What a relying party learns from appraised evidence."""

    provider: str
    facts: Facts

    @property
    def tier(self) -> Tier:
        """How much the evidence is worth."""
        return self.facts.tier

    @property
    def measurement(self) -> Digest:
        """Of the code that runs."""
        return self.facts.measurement


@dataclass(frozen=True)
class Passed:
    """One step of an appraisal that was passed."""

    step: str
    found: str


def appraise_release(
    evidence: Evidence, claims: EnclaveClaims, manifest: OwnerManifest
) -> AttestationResult:
    """Appraise an enclave that has released: its endorsements as of the opening of its round.

    A release still counts when they have ended, also under a manifest that was issued later.
    Raises PeerFault as `appraise` does.
    """
    return _to_the_end(Appraisal(evidence, claims, manifest, claims.opened_at))


def appraise(
    evidence: Evidence, claims: EnclaveClaims, manifest: OwnerManifest, now: int
) -> AttestationResult:
    """Appraise `evidence` for `claims` by the owner's manifest at `now` (Unix seconds).

    A clock that lost its time is behind; the owner's word says how far it is at least.

    Raises PeerFault: EXPIRED_MANIFEST, WRONG_FLEET, WRONG_SUITE, and EVIDENCE_REFUSED when it isn't
    genuine, doesn't bind these claims, or isn't what the owner accepts.
    """
    return _to_the_end(Appraisal(evidence, claims, manifest, max(now, manifest.issued)))


def _to_the_end(steps: "Appraisal") -> AttestationResult:
    for _ in steps.run():
        pass
    return steps.result


class Appraisal:
    """The steps one by one, for who wants to show them."""

    def __init__(
        self, evidence: Evidence, claims: EnclaveClaims, manifest: OwnerManifest, now: int
    ) -> None:
        self._evidence, self._claims, self._manifest = evidence, claims, manifest
        self._now = now
        self._result: AttestationResult | None = None

    @property
    def result(self) -> AttestationResult:
        """What came of it, once every step was passed; raise PeerFault before."""
        if self._result is None:
            raise refused("not appraised to the end")
        return self._result

    def run(self) -> Iterator[Passed]:
        """Go through the steps; raise PeerFault at the first that fails."""
        manifest, claims, wanted = self._manifest, self._claims, self._manifest.appraisal
        manifest.verify_current(self._now)
        yield Passed("owner manifest", f"version {manifest.version}")
        check(claims.fleet == manifest.fleet, "claims of another fleet", Reason.WRONG_FLEET)
        check(claims.suite == manifest.suite, "claims of another suite", Reason.WRONG_SUITE)
        yield Passed("fleet and suite", f"{claims.fleet}, {claims.suite}")

        provider = self._evidence.provider
        if provider == simulated.INSECURE_SIMULATED and not manifest.allow_insecure:
            raise refused("simulated evidence, and the owner manifest doesn't allow it")
        facts = _verify(self._evidence, wanted.insecure_roots, self._now)
        if 0 < facts.expires < self._now:
            raise refused("its endorsements have expired; the coordinator has to fetch new ones")
        yield Passed("evidence is genuine", provider)

        if facts.tier < wanted.tier:
            least = Tier(wanted.tier).name.lower()
            raise refused(f"tier {facts.tier.name.lower()}, and the owner wants {least} at least")
        yield Passed("tier", facts.tier.name.lower())
        if facts.tcb_status not in wanted.tcb_statuses:
            raise refused(f"the platform's TCB is {facts.tcb_status}")
        for advisory in facts.advisories:
            if advisory in wanted.refused_advisories:
                raise refused(f"advisory {advisory} holds for the platform")
        if provider in _LISTED and facts.tcb_evaluation < wanted.tcb_evaluation:
            raise refused(f"judged by TCB list {facts.tcb_evaluation}: too old")
        yield Passed("platform", ", ".join((facts.tcb_status, *facts.advisories)))
        for layer in wanted.layers if facts.tier is Tier.PROCESS else ():
            if layer not in facts.layers:
                raise refused(f"its kernel doesn't give the layer {layer}")
        if facts.debug:
            raise refused("it runs in debug mode: its host can read its memory")
        yield Passed("not debug", "its memory is its own")

        if facts.measurement in wanted.revoked:
            raise refused(f"measurement {facts.measurement.short} is revoked")
        if not any(_matches(value, provider, facts) for value in manifest.reference_values):
            raise refused(f"measurement {facts.measurement.short} is not a reference value")
        yield Passed("reference value", facts.measurement.short)
        if facts.report_data != claims.report_data:
            raise refused("evidence for other claims")
        yield Passed("evidence binds the claims", claims.digest.short)
        self._result = AttestationResult(provider, facts)


def _verify(evidence: Evidence, insecure_roots: tuple[Digest, ...], now: int) -> Facts:
    """Each verifier is loaded when such evidence comes: most devices meet one kind for ever."""
    match evidence.provider:
        case simulated.INSECURE_SIMULATED:
            return simulated.verify(evidence)
        case "tdx" | "sgx":
            from qflare.verifiers import dcap

            return dcap.verify(evidence, insecure_roots, now)
        case "sev_snp":
            from qflare.verifiers import snp

            return snp.verify(evidence, insecure_roots, now)
        case "nitro":
            from qflare.verifiers import nitro

            return nitro.verify(evidence, insecure_roots, now)
        case "tpm":
            from qflare.verifiers import tpm

            return tpm.verify(evidence)
        case other:
            raise refused(f"no verifier for {other[:40]!r}")


def _matches(value: ReferenceValue, provider: str, facts: Facts) -> bool:
    if provider in _OWN_KEY and value.signer is None:
        return False  # anybody can make such a key: it has to be named
    return (
        value.provider == provider
        and value.measurement in (None, facts.measurement)
        and value.signer in (None, facts.signer)
        and (value.signer is None or value.product == facts.product)
        and value.svn <= facts.svn
    )

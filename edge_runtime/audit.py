"""Was each of this device's updates counted exactly once? Judged by what is kept here. Pure.

The words of coordinator and enclave are verified anew from the owner's key, as when they came, and
held against the journal. One place in the tree is once: the enclave signs a tree with one leaf a
device, and its code is what the evidence is for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from edge_runtime.memory import Fate, JournalEntry, LastReceipt, Memory
from edge_runtime.proving import Proving
from edge_runtime.trusted_model import TrustedModel
from edge_runtime.trusted_round import Trust
from qflare.crypto.keys import VerifyKey
from qflare.envelope import open_signed
from qflare.faults import PeerFault, Reason
from qflare.merkle import EMPTY_ROOT
from qflare.messages import Checkpoint, ReceiptStatus, UpdateReceipt
from qflare.names import DeviceId, FleetId
from qflare.record import check
from qflare.transfer import InclusionAnswer

Proof = Callable[[int, str], bytes | None]  # round, kind: the words that were kept


@dataclass(frozen=True)
class Finding:
    """What became of one update; `well`: nobody owes this device an answer."""

    round: int
    update: str  # hexadecimal
    state: str  # counted, waiting, refused, overtaken, unproven, wrong
    well: bool
    says: str


@dataclass(frozen=True)
class Kept:
    """What the device's store has."""

    memory: Memory
    manifest: bytes
    journal: tuple[JournalEntry, ...]
    proof: Proof


def audit(kept: Kept, owner_key: VerifyKey, fleet: FleetId, device: DeviceId) -> Iterator[Finding]:
    """One finding a journaled round; raise PeerFault for a manifest that isn't the owner's."""
    memory = kept.memory
    known = Memory(
        manifest_version=memory.manifest_version,
        manifest=memory.manifest,
        former_manifests=memory.former_manifests,
        owners_number=memory.owners_number,
        owners=memory.owners,
    )
    trust = Trust(owner_key, fleet, known)
    trust.take_manifest(kept.manifest)
    for entry in kept.journal:
        state, well, says = _judge(entry, kept, trust, device)
        yield Finding(entry.round, entry.update.raw.hex(), state, well, says)


def _judge(
    entry: JournalEntry, kept: Kept, trust: Trust, device: DeviceId
) -> tuple[str, bool, str]:
    match entry.fate:
        case Fate.REFUSED:
            return "refused", True, "not counted: the coordinator refused it, and said so"
        case Fate.OVERTAKEN:
            return "overtaken", True, "not counted: it was late for its round"
        case Fate.WAITING:
            return "waiting", True, "not sent yet, or the coordinator hasn't answered"
    try:
        _verify_acceptance(entry, kept, trust, device)
        if entry.fate is Fate.ACCEPTED:
            last = kept.memory.receipt
            if last is None or last.round < entry.round:
                return "waiting", True, "accepted; its round isn't released yet"
            says = (
                "accepted, its round is over, and nobody proved that it counted: ask the operator"
            )
            return "unproven", False, says
        where = _verify_count(entry, kept, trust, device)
    except PeerFault as fault:
        return "wrong", False, f"what is kept here doesn't hold: {fault}"
    return "counted", True, f"counted once, {where}"


def _words(kept: Kept, round_: int, kind: str) -> bytes:
    found = kept.proof(round_, kind)
    if found is None:
        raise PeerFault(Reason.BAD_PROOF, f"the proof ({kind}) is missing")
    return found


def _verify_acceptance(entry: JournalEntry, kept: Kept, trust: Trust, device: DeviceId) -> None:
    """The coordinator's signed word that it took this update."""
    words = _words(kept, entry.round, "accepted")
    receipt = open_signed(UpdateReceipt, words, trust.coordinator_key)
    said = (receipt.fleet, receipt.device, receipt.round, receipt.update, receipt.status)
    ours = (trust.manifest.fleet, device, entry.round, entry.update, ReceiptStatus.ACCEPTED)
    check(said == ours, "the receipt is for another update", Reason.WRONG_OFFER)


def _verify_count(entry: JournalEntry, kept: Kept, trust: Trust, device: DeviceId) -> str:
    """The release, by the device's own verifier, and the update's place in it."""
    last = kept.memory
    nothing = Checkpoint(0, EMPTY_ROOT)
    trust.memory = replace(trust.memory, receipt=None, checkpoint=nothing)
    it = TrustedModel(trust)
    ready = it.take_ready(_words(kept, entry.round, "release"))
    check(ready.claims.digest == entry.claims, "released by other claims", Reason.WRONG_OFFER)
    it.take_evidence()
    receipt = it.take_receipt()
    it.take_ledger()
    shown = ready.checkpoint
    check(shown.size <= last.checkpoint.size, "a ledger from the future", Reason.ROLLBACK)
    if shown.size == last.checkpoint.size:
        check(shown.root == last.checkpoint.root, "another ledger", Reason.EQUIVOCATION)
    if last.receipt is not None and last.receipt.round == receipt.round:
        check(last.receipt.digest == receipt.digest, "another release", Reason.EQUIVOCATION)
    answer = InclusionAnswer.parse(_words(kept, entry.round, "counted"))
    Proving(device, entry.update, LastReceipt.of(receipt)).verify(answer)
    return f"as number {answer.index + 1} of {receipt.admitted} updates, release {shown.size}"

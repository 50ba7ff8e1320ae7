"""Requests to the enclave in wire form, with the blobs that they name, and its replies back."""

from collections.abc import Callable
from typing import Protocol

from coordinator.events import (
    AdmitUpdate,
    ConfigureEnclave,
    EnclaveReply,
    EnclaveRequest,
    OpenEnclaveRound,
    ReleasedModel,
    ReleaseRound,
)
from qflare.enclave_wire import (
    REPLIES,
    Admit,
    Configure,
    OpenRound,
    Refused,
    Release,
    Released,
)
from qflare.faults import PeerFault, Reason
from qflare.messages import ZERO, parse_any, update_leaf
from qflare.names import DeviceId, Digest
from qflare.proofs import Tree
from qflare.transfer import InclusionAnswer


class Blobs(Protocol):
    """Where weights and states are kept."""

    def read(self, digest: Digest) -> bytes: ...
    def put(self, data: bytes) -> Digest: ...


def to_wire(
    request: EnclaveRequest,
    manifest: bytes,
    blobs: Blobs,
    update: Callable[[DeviceId, Digest], bytes],
) -> bytes:
    """The bytes of a request; the same request gives the same bytes. LocalFault for lost blobs."""
    match request:
        case ConfigureEnclave():
            return Configure(manifest).to_bytes()
        case OpenEnclaveRound():
            return OpenRound(
                round=request.round,
                opened_at=request.opened_at,
                policy=request.policy,
                candidates=request.candidates,
                predecessor=request.predecessor,
                weights=blobs.read(request.weights),
                state=blobs.read(request.state),
            ).to_bytes()
        case AdmitUpdate():
            return Admit(request.certificate, update(request.device, request.update)).to_bytes()
        case ReleaseRound(number):
            return Release(number).to_bytes()


def from_wire(data: bytes, blobs: Blobs) -> EnclaveReply:
    """Parse a reply, storing the blobs of a release; what isn't one becomes a Refused."""
    try:
        reply = parse_any(data, *REPLIES)
    except PeerFault as fault:
        return Refused(Reason.MALFORMED, f"the enclave's reply: {fault}")
    if not isinstance(reply, Released):
        found: EnclaveReply = reply
        return found
    return ReleasedModel(
        receipt=reply.receipt,
        weights=blobs.put(reply.weights),
        weights_size=len(reply.weights),
        state=blobs.put(reply.state) if reply.state else ZERO,
        state_size=len(reply.state),
    )


class AdmittedUpdates:
    """The updates that count in a released round, in order of device as the enclave counted."""

    def __init__(self, round_: int, admitted: list[tuple[DeviceId, Digest]]) -> None:
        self.round = round_
        self._places = {entry: place for place, entry in enumerate(admitted)}
        self._tree = Tree([update_leaf(device, digest) for device, digest in admitted])

    def answer(self, device: DeviceId, update: Digest) -> InclusionAnswer | None:
        """The path from an update to its round's receipt; None if it doesn't count there."""
        place = self._places.get((device, update))
        if place is None:
            return None
        proof = self._tree.inclusion_proof(place)
        return InclusionAnswer(self.round, update, place, self._tree.size, proof)

"""From what training gave to the bytes that are sent: pad, seal, sign. Pure, and without arrays, so
that the daemon does it and its key never meets the training process.
"""

from dataclasses import dataclass, field

from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import Aead
from qflare.envelope import seal_update
from qflare.faults import LocalFault, PeerFault
from qflare.messages import EnclaveClaims, UpdatePayload
from qflare.names import DeviceId, Digest
from qflare.policy import RoundPolicy
from qflare.tallies import Tallies, classes_of, verify


@dataclass(frozen=True)
class Identity:
    """Who a device is: its name, its certificate's fingerprint, its key, the AEAD it is fast at."""

    device: DeviceId
    certificate: Digest
    key: SigningKey = field(repr=False)
    aead: Aead = Aead.AES_256_GCM


def seal(
    encoded: bytes,
    examples: int,
    tallies: Tallies,
    claims: EnclaveClaims,
    policy: RoundPolicy,
    identity: Identity,
) -> bytes:
    """Seal an encoded update to the enclave of `claims`, and sign it.

    The weight is the number of examples up to the policy's cap, above which the enclave refuses.
    `tallies` are of the device's validation part (qflare/tallies.py), of which no more than that
    cap may be evaluated either. Raises LocalFault for nothing trained on or tallies that the
    enclave would refuse, PeerFault for a KEM key that nothing can be sealed to.
    """
    if examples < 1:
        raise LocalFault("an update has to be trained on something; give the device data")
    try:
        verify(tallies, classes_of(tallies), policy.weight_cap)
    except PeerFault as fault:
        raise LocalFault(
            f"{fault}; evaluate at most {policy.weight_cap} validation examples, each of them once"
        ) from None
    payload = UpdatePayload(min(examples, policy.weight_cap), encoded, tallies)
    return seal_update(
        payload, claims, identity.device, identity.certificate, identity.key, identity.aead
    )

"""From trained weights to the bytes that are sent: clip, compress, pad, seal, sign. Pure."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edge_runtime.memory import RoundStats
from qflare.compression import parse_codec
from qflare.compression.encoding import clip, compress_with_feedback
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import Aead
from qflare.envelope import seal_update
from qflare.faults import LocalFault, PeerFault
from qflare.messages import EnclaveClaims, UpdatePayload
from qflare.names import DeviceId, Digest
from qflare.policy import RoundPolicy
from qflare.tallies import Tallies, classes_of, verify
from qflare.tensors import FloatVector


@dataclass(frozen=True)
class Identity:
    """Who a device is: its name, its certificate's fingerprint, its key, the AEAD it is fast at."""

    device: DeviceId
    certificate: Digest
    key: SigningKey = field(repr=False)
    aead: Aead = Aead.AES_256_GCM


@dataclass(frozen=True, eq=False)
class MadeUpdate:
    """An update, and what has to be committed with it."""

    update: bytes = field(repr=False)
    residual: FloatVector = field(repr=False)
    stats: RoundStats  # stages compress and seal; counters of sizes in bytes


def make_update(
    delta: FloatVector,
    residual: FloatVector,
    examples: int,
    tallies: Tallies,
    claims: EnclaveClaims,
    policy: RoundPolicy,
    identity: Identity,
    rng: np.random.Generator,
    clock: Callable[[], float] = time.perf_counter,
) -> MadeUpdate:
    """Turn delta = local - global, float32[size], into a sealed update to the enclave of `claims`.

    The weight is the number of examples up to the policy's cap, above which the enclave refuses.
    `tallies` are of the device's validation part (qflare/tallies.py), of which no more than that
    cap may be evaluated either. Raises LocalFault for a delta that isn't finite, nothing trained on
    or tallies that the enclave would refuse, PeerFault for a KEM key that nothing can be sealed to.
    """
    if examples < 1:
        raise LocalFault("an update has to be trained on something; give the device data")
    try:
        verify(tallies, classes_of(tallies), policy.weight_cap)
    except PeerFault as fault:
        raise LocalFault(
            f"{fault}; evaluate at most {policy.weight_cap} validation examples, each of them once"
        ) from None
    began = clock()
    encoded, left = compress_with_feedback(
        clip(delta, policy.clip_norm), residual, parse_codec(policy.codec), rng, policy.clip_norm
    )
    compressed = clock()
    payload = UpdatePayload(min(examples, policy.weight_cap), encoded, tallies)
    update = seal_update(
        payload, claims, identity.device, identity.certificate, identity.key, identity.aead
    )
    sealed = clock()
    stats = RoundStats(
        stages=(("compress", compressed - began), ("seal", sealed - compressed)),
        counters=(
            ("encoded_bytes", len(encoded)),
            ("float32_bytes", 4 * delta.size),
            ("update_bytes", len(update)),
        ),
    )
    return MadeUpdate(update, left, stats)

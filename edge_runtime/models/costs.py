"""What one round costs a device in bytes, by the real encoders and the real envelope. Pure."""

import time
from dataclasses import dataclass

import numpy as np

from qflare.compression import CODECS
from qflare.compression.encoding import compress_with_feedback
from qflare.compression.padding import bucket
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT, Aead
from qflare.envelope import seal_update
from qflare.messages import ZERO, EnclaveClaims, UpdatePayload
from qflare.names import DeviceId, FleetId
from qflare.tallies import zeros

ENCODED_MAX = 2**21  # scalars that are really encoded; for more, bytes are scaled up
_CLIP = 100.0


@dataclass(frozen=True, slots=True)
class Wire:
    """One update with one codec. `exact` is False if it was scaled up from a smaller one."""

    codec: str
    encoded: int  # bytes of the compressed difference
    sealed: int  # bytes that are sent, but for MQTT's own
    exact: bool
    seconds: float  # to compress, seal and sign it on this machine


def updates(size: int, rows: int) -> tuple[Wire, ...]:
    """An update of `size` normally distributed scalars and `rows` rows of tallies, by codec."""
    key, kem = SigningKey.generate(DEFAULT), KemPrivateKey.generate(DEFAULT)
    claims = _claims(key, kem)
    device = DeviceId.parse("device")
    random = np.random.Generator(np.random.PCG64(1))
    tried = min(size, ENCODED_MAX)
    delta = random.normal(0, 0.01, tried).astype(np.float32)
    found = []
    for name, codec in CODECS.items():
        began = time.perf_counter()
        nothing = np.zeros(tried, np.float32)
        encoded, _ = compress_with_feedback(delta, nothing, codec, random, _CLIP)
        payload = UpdatePayload(100, encoded, _tallies(rows))
        sealed = len(seal_update(payload, claims, device, ZERO, key, Aead.AES_256_GCM))
        seconds, length = time.perf_counter() - began, len(encoded)
        if tried < size:
            around = sealed - bucket(len(payload.to_bytes()) + 1)
            length = round(length * size / tried)
            sealed = bucket(length + len(payload.to_bytes()) - len(encoded) + 1) + around
            seconds *= size / tried
        found.append(Wire(name, length, sealed, tried == size, seconds))
    return tuple(found)


def _tallies(rows: int) -> tuple[int, ...]:
    """Tallies of a hundred examples, all in the first row."""
    return (100, 50, 60, *zeros(rows)[3:-2], 60_000, 50_000)


def _claims(key: SigningKey, kem: KemPrivateKey) -> EnclaveClaims:
    return EnclaveClaims(
        fleet=FleetId.parse("bench"),
        suite=DEFAULT.name,
        manifest=ZERO,
        round=1,
        opened_at=0,
        epoch=1,
        step=1,
        policy=ZERO,
        cohort=ZERO,
        model=ZERO,
        state=ZERO,
        receipt=ZERO,
        kem_key=kem.public.raw,
        signing_key=key.verify_key.raw,
    )

"""An open round with real keys, and devices that answer it: what the measurements feed on."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from enclave.admission import CertificateDesk, RoundContext
from enclave.desk import AdmissionDesk
from qflare.compression import parse_codec
from qflare.compression.encoding import encode
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT, Aead
from qflare.enclave_wire import Admit
from qflare.envelope import seal_update
from qflare.messages import EnclaveClaims, UpdatePayload
from qflare.names import DeviceId, Digest, FleetId
from qflare.policy import (
    AppraisalPolicy,
    Genesis,
    OwnerManifest,
    PolicyBounds,
    ReferenceValue,
    RoundPolicy,
)
from qflare.schedule import Schedule

FLEET = FleetId.parse("bench")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
WEIGHT_CAP = 1000
CLIP_NORM = 2.0
CLASSES = 10
_TALLIES = (10, 6, 8) * CLASSES + (60_000, 50_000)
_DIFFERENT = 8  # encoded updates; each device seals and signs one of them for itself


class OpenRound:
    """One round of a model of `size` coordinates under `codec`, with the default suite."""

    def __init__(self, size: int, codec: str, devices: int) -> None:
        self.size, self.devices, self.kind = size, devices, parse_codec(codec)
        self._ca_key, self._ca = issue_ca(FLEET, DEFAULT, NOW, 3650)
        self._kem = KemPrivateKey.generate(DEFAULT)
        self._policy = RoundPolicy(
            suite=DEFAULT.name,
            codec=codec,
            min_cohort=2,
            max_cohort=devices,
            clip_norm=CLIP_NORM,
            weight_cap=WEIGHT_CAP,
            deadline_s=60,
            schedule=Schedule(20, 1, 0.1, 0.1, 0.9, 1.0),
        )
        nothing = Digest.of(b"")
        manifest = OwnerManifest(
            fleet=FLEET,
            version=1,
            issued=0,
            expires=2**40,
            suite=DEFAULT.name,
            coordinator_key=SigningKey.generate(DEFAULT).verify_key.raw,
            device_cas=(self._ca,),
            revoked=(),
            genesis=Genesis(nothing, nothing, (("w", (size,)),), CLASSES),
            bounds=PolicyBounds((DEFAULT.name,), (codec,), 2, CLIP_NORM, WEIGHT_CAP),
            reference_values=(ReferenceValue("insecure_simulated", nothing),),
            appraisal=AppraisalPolicy(tier=0),
            allow_insecure=True,
        )
        self._genesis = manifest.genesis
        self._certificates = CertificateDesk(manifest)
        self._claims = EnclaveClaims(
            fleet=FLEET,
            suite=DEFAULT.name,
            manifest=manifest.digest,
            round=1,
            opened_at=0,
            epoch=1,
            step=1,
            policy=self._policy.digest,
            cohort=nothing,
            model=nothing,
            state=nothing,
            receipt=nothing,
            kem_key=self._kem.public.raw,
            signing_key=SigningKey.generate(DEFAULT).verify_key.raw,
        )
        rng = np.random.default_rng(0)
        deltas = (rng.standard_normal(size, np.float32) * 1e-3 for _ in range(_DIFFERENT))
        self._encoded = [encode(delta, self.kind, rng, CLIP_NORM)[0] for delta in deltas]

    @property
    def codec_bytes(self) -> int:
        """The mean length of the codec's output."""
        return sum(map(len, self._encoded)) // _DIFFERENT

    def desk(self) -> AdmissionDesk:
        """A new, empty desk of this round; certificates that an earlier one saw stay known."""
        return AdmissionDesk(
            RoundContext.of(
                self._claims, (), self._policy, self._genesis, self._kem, self._certificates
            )
        )

    def requests(self) -> Iterator[Admit]:
        """Each device's request in turn, made when it is asked for."""
        for number in range(self.devices):
            device, key = DeviceId.parse(f"device-{number:06}"), SigningKey.generate(DEFAULT)
            der = issue_device(self._ca_key, self._ca, device, key.verify_key, NOW, 365)
            payload = UpdatePayload(
                1 + number % WEIGHT_CAP, self._encoded[number % _DIFFERENT], _TALLIES
            )
            update = seal_update(
                payload, self._claims, device, Digest.of(der), key, Aead.AES_256_GCM
            )
            yield Admit(der, update)


def report(result: dict[str, object]) -> None:
    """Hand a measurement to the parent process: one JSON object on one line."""
    print(json.dumps(result), flush=True)

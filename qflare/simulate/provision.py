"""Provisioning of a simulated fleet: owner, CA, coordinator, enclave and devices, on disk.

Real keys and certificates, made for this run and gone with it. What an owner, a technician and an
operator do apart from each other in the field is done here in one place.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import time

from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import Suite
from qflare.envelope import sign
from qflare.host.files import ensure_private_dir, write_atomic
from qflare.host.model import ModelFile
from qflare.names import DeviceId, Digest, FleetId
from qflare.policy import (
    AppraisalPolicy,
    Genesis,
    OwnerManifest,
    PolicyBounds,
    ReferenceValue,
    RoundPolicy,
)
from qflare.simulate.data import Share
from qflare.simulate.options import Options
from qflare.verifiers.simulated import INSECURE_SIMULATED

CERTIFICATE_DAYS = 7

Table = Mapping[str, object]


@dataclass(frozen=True)
class Site:
    """Where things of this run are."""

    state: Path
    socket: Path

    @property
    def coordinator(self) -> Path:
        return self.state / "coordinator"

    @property
    def enclave(self) -> Path:
        return self.state / "enclave"

    def device(self, name: DeviceId) -> Path:
        return self.state / "devices" / name


@dataclass(frozen=True)
class Owner:
    """The fleet owner's side: keys that no process of the run ever holds."""

    fleet: FleetId
    suite: Suite
    key: SigningKey
    ca_key: SigningKey
    ca: bytes

    @classmethod
    def make(cls, fleet: FleetId, suite: Suite) -> "Owner":
        ca_key, ca = issue_ca(fleet, suite, datetime.now(UTC), CERTIFICATE_DAYS)
        return cls(fleet, suite, SigningKey.generate(suite), ca_key, ca)

    def manifest(
        self,
        coordinator: SigningKey,
        model: ModelFile,
        bounds: PolicyBounds,
        measurement: Digest,
    ) -> bytes:
        """The signed manifest; it says that evidence is simulated."""
        issued = int(time())
        return sign(
            OwnerManifest(
                fleet=self.fleet,
                version=1,
                issued=issued,
                expires=issued + CERTIFICATE_DAYS * 86_400,
                suite=self.suite.name,
                coordinator_key=coordinator.verify_key.raw,
                device_cas=(self.ca,),
                revoked=(),
                genesis=genesis(model),
                bounds=bounds,
                reference_values=(ReferenceValue(INSECURE_SIMULATED, measurement),),
                appraisal=AppraisalPolicy(tier=0),
                allow_insecure=True,
            ),
            self.key,
        )


def genesis(model: ModelFile) -> Genesis:
    """What the owner signs of the model that the fleet starts from."""
    return Genesis(
        graph=Digest.of(model.tflite),
        weights=Digest.of(model.weights),
        parameters=tuple((p.name, tuple(p.shape)) for p in model.manifest.parameters),
        classes=model.manifest.rows,
    )


def _model_files(home: Path, model: ModelFile) -> Table:
    ensure_private_dir(home)
    parts = {"graph": model.tflite, "weights": model.weights}
    for name, content in parts.items():
        write_atomic(home / name, content)
    return {name: home / name for name in parts}


def enclave(site: Site, owner: Owner, options: Options) -> Path:
    """Write the enclave's files; return its configuration."""
    home = ensure_private_dir(site.enclave)
    write_atomic(home / "owner.key", owner.key.verify_key.raw)
    return write_toml(
        home / "enclave.toml",
        {
            "enclave": {
                "fleet": owner.fleet,
                "state_dir": home / "state",
                "socket": site.socket,
                "owner_key": home / "owner.key",
                "provider": INSECURE_SIMULATED,
                "insecure_seed": options.seed,
            }
        },
    )


def coordinator(
    site: Site,
    owner: Owner,
    options: Options,
    policy: RoundPolicy,
    bounds: PolicyBounds,
    model: ModelFile,
    measurement: Digest,
    broker: Table,
) -> Path:
    """Write the coordinator's files and the manifest that names its key."""
    home = ensure_private_dir(site.coordinator)
    key = SigningKey.generate(owner.suite)
    write_atomic(home / "coordinator.seed", key.to_seed())
    write_atomic(home / "owner.key", owner.key.verify_key.raw)
    write_atomic(home / "manifest", owner.manifest(key, model, bounds, measurement))
    pace = policy.schedule
    return write_toml(
        home / "coordinator.toml",
        {
            "coordinator": {
                "fleet": owner.fleet,
                "state_dir": home / "state",
                "key": home / "coordinator.seed",
                "manifest": home / "manifest",
                "owner_key": home / "owner.key",
            },
            "broker": broker,
            "enclave": {"socket": site.socket},
            "genesis": _model_files(home / "genesis", model),
            "policy": {
                "suite": policy.suite,
                "codec": policy.codec,
                "min_cohort": policy.min_cohort,
                "max_cohort": policy.max_cohort,
                "clip_norm": policy.clip_norm,
                "weight_cap": policy.weight_cap,
                "deadline_s": policy.deadline_s,
            },
            "policy.schedule": {
                "rounds": pace.rounds,
                "local_epochs": pace.local_epochs,
                "learning_rate": pace.learning_rate,
                "learning_rate_final_fraction": pace.learning_rate_final_fraction,
                "server_momentum": pace.server_momentum,
                "server_learning_rate": pace.server_learning_rate,
                "proximal_mu": pace.proximal_mu,
                "example_clip": pace.example_clip,
                "noise_multiplier": pace.noise_multiplier,
            },
            "run": {
                "rounds": options.rounds,
                "cohort": options.cohort,
                "expect_devices": options.devices,
                "wait_s": 60,
            },
        },
    )


def device(site: Site, owner: Owner, options: Options, data: Share, broker: Table) -> Path:
    """Write one device's key, certificate, samples and configuration."""
    name = data.device
    home = ensure_private_dir(site.device(name))
    key = SigningKey.generate(owner.suite)
    now = datetime.now(UTC)
    certificate = issue_device(owner.ca_key, owner.ca, name, key.verify_key, now, CERTIFICATE_DAYS)
    write_atomic(home / "device.seed", key.to_seed())
    write_atomic(home / "device.der", certificate)
    write_atomic(home / "owner.key", owner.key.verify_key.raw)
    data.write(home / "samples.npz")
    return write_toml(
        home / "edge.toml",
        {
            "device": {
                "fleet": owner.fleet,
                "name": name,
                "state_dir": home / "state",
                "key": home / "device.seed",
                "certificate": home / "device.der",
                "owner_key": home / "owner.key",
            },
            "broker": broker,
            "data": {"kind": "npz", "path": home / "samples.npz"},
            "training": {"insecure_seed": options.seed},
            # Many devices on one busy machine would all wait for it to be idle.
            "gates": {"enabled": False},
            "serving": {"enabled": False},  # no application uses the models
        },
    )


def write_toml(path: Path, tables: Mapping[str, Table]) -> Path:
    """Write a configuration file; return its path."""
    lines: list[str] = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
    write_atomic(path, ("\n".join(lines) + "\n").encode())
    return path


def _toml(value: object) -> str:
    match value:
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case _:  # TOML's basic strings escape as JSON's do
            return json.dumps(str(value), ensure_ascii=False)

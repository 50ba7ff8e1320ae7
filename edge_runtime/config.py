"""edge.toml, and the files that it names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from edge_runtime import budget, certificate_file
from edge_runtime.gates.settings import GatesSection, Window
from edge_runtime.sealing import Identity
from edge_runtime.serving.settings import ServingSection
from edge_runtime.serving.settings import under as serving_under
from edge_runtime.sources.settings import DataSection
from edge_runtime.state import Settings as MachineSettings
from edge_runtime.storage.opening import StorageSection
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.provider import provider_of
from qflare.crypto.suites import fast_aead, suite_of_verify_key
from qflare.faults import LocalFault, PeerFault
from qflare.host import config as host_config
from qflare.host.config import ConfigFault, Loaded
from qflare.host.files import read_bounded
from qflare.names import DeviceId, Digest, FleetId

CERTIFICATE_MAX = 8 * 1024
_Kib = 1024


class DeviceSection(host_config.Settings):
    """Who the device is. Paths are relative to the configuration file."""

    fleet: str
    name: str
    state_dir: Path
    key: Path  # the ML-DSA seed, 32 bytes
    certificate: Path  # DER
    owner_key: Path  # the fleet owner's raw verify key, pinned


class BrokerSection(host_config.Settings):
    """Where the broker is; the user name is the device's.

    `fallbacks` are tried in order while `url` doesn't answer; `ca_file` (PEM) is what their
    certificates are checked by, in place of the system's CAs.
    """

    url: str
    fallbacks: tuple[str, ...] = ()
    ca_file: Path | None = None
    password_file: Path | None = None
    protocol: Literal["auto", "5", "3.1.1"] = "auto"


class TrainingSection(host_config.Settings):
    """How to train, and how much of the machine that may take.

    `duty` is the largest share of a core, `max_seconds` the longest that one round's training may
    last (0: as long as it takes). `insecure_seed` repeats runs to the bit, and tells outsiders the
    rounding and the noise.
    """

    threads: Annotated[int, Meta(ge=1, le=16)] = 1
    duty: Annotated[float, Meta(ge=0.1, le=1.0)] = 1.0
    max_seconds: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 0.0
    insecure_seed: Annotated[int, Meta(ge=0)] | None = None  # 64 bits

    def __post_init__(self) -> None:
        if (self.insecure_seed or 0) >= 2**64:
            raise ValueError("insecure_seed: Expected an `int` below 2**64")


class ProcessSection(host_config.Settings):
    """The process that trains: what it may take, and when it goes.

    `memory_mb` is its private memory at most; unset, as the board's profile has it, or 512. Where
    the memory cgroup is off it is half of the machine's memory at most. `nice` lets everything
    else on the machine go first.
    It is sent away after `idle_s` without work. One that neither computes a step nor reads a byte
    for `hung_after_s` is killed, which costs the round.
    """

    memory_mb: Annotated[int, Meta(ge=64, le=2**20)] | None = None
    nice: Annotated[int, Meta(ge=0, le=19)] = 10
    idle_s: Annotated[float, Meta(ge=0, le=7 * 86_400)] = 120.0
    hung_after_s: Annotated[float, Meta(ge=1, le=86_400)] = 300.0


class TransferSection(host_config.Settings):
    """How models and updates travel. `chunk` is the largest piece of an update, in bytes.

    `up_kib_s` and `down_kib_s` are what they may take of the network on average; 0 is no limit.
    In the hours of `quiet` they wait.
    """

    chunk: Annotated[int, Meta(ge=_Kib, le=256 * _Kib)] = 256 * _Kib
    up_kib_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    down_kib_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    quiet: Annotated[tuple[Window, ...], Meta(max_length=64)] = ()


class UpdatesSection(host_config.Settings):
    """New versions of QFLARE. Without `fetch` none are taken from the coordinator: for images that
    bring their own, and for all instances on a machine but one.
    """

    fetch: bool = True


class LogSection(host_config.Settings):
    """Where log lines go; without a file, to standard error."""

    format: Literal["auto", "json", "pretty"] = "auto"
    file: Path | None = None
    level: Literal["debug", "info", "warning", "error"] = "info"


class EdgeConfig(host_config.Settings):
    """All of edge.toml."""

    device: DeviceSection
    broker: BrokerSection
    data: DataSection
    training: TrainingSection = TrainingSection()
    process: ProcessSection = ProcessSection()
    transfer: TransferSection = TransferSection()
    gates: GatesSection = GatesSection()
    storage: StorageSection = StorageSection()
    serving: ServingSection = ServingSection()
    updates: UpdatesSection = UpdatesSection()
    log: LogSection = LogSection()

    def __post_init__(self) -> None:
        if self.gates.samples.new and not self.data.counted:
            raise ValueError(
                f"gates.samples.new: new samples of kind {self.data.kind} can't be counted; set it "
                "to 0"
            )


def load(path: Path, environ: Mapping[str, str]) -> Loaded[EdgeConfig]:
    """Read edge.toml and the environment; raise ConfigFault for anything wrong in them.

    A key, certificate or password file whose name is relative is taken from $CREDENTIALS_DIRECTORY
    (systemd's LoadCredential=) if it is there: the one beside edge.toml is root's then.
    """
    loaded = host_config.load(EdgeConfig, "edge", path, environ)
    value = loaded.value
    base = path.resolve().parent
    given = environ.get("CREDENTIALS_DIRECTORY")
    credentials = Path(given) if given else None
    device = _secret(base, credentials, value.device, "key", "certificate", "owner_key")
    mqtt = _secret(base, credentials, value.data.mqtt, "password_file")
    value = msgspec.structs.replace(
        value,
        device=_under(base, device, "state_dir"),
        broker=_secret(base, credentials, value.broker, "password_file", "ca_file"),
        data=msgspec.structs.replace(value.data.under(base), mqtt=mqtt),
        storage=_under(base, value.storage, "key_file", "previous_key_file"),
        serving=serving_under(base, value.serving),
        log=_under(base, value.log, "file"),
    )
    return Loaded(value, loaded.sources)


S = TypeVar("S", bound=host_config.Settings)


def _under(base: Path, section: S, *names: str) -> S:
    paths = {name: getattr(section, name) for name in names}
    found = {name: base / path for name, path in paths.items() if path is not None}
    return msgspec.structs.replace(section, **found)


def _secret(base: Path, credentials: Path | None, section: S, *names: str) -> S:
    """As `_under`, but what is among the credentials is meant to be there.

    systemd gives credentials flat names, so only the last part of a path counts there.
    """
    placed = _under(base, section, *names)
    if credentials is None:
        return placed
    found = {}
    for name in names:
        path: Path | None = getattr(section, name)
        if path is None or path.is_absolute():
            continue
        if (credentials / path.name).exists():
            found[name] = credentials / path.name
    return msgspec.structs.replace(placed, **found)


def machine_settings(config: EdgeConfig) -> MachineSettings:
    """Read the device's key, certificate and pinned owner key; raise ConfigFault."""
    device = config.device
    try:
        fleet, name = FleetId.parse(device.fleet), DeviceId.parse(device.name)
    except PeerFault as fault:
        raise ConfigFault(f"device: {fault.detail}; correct fleet or name") from None
    seed = _read("device.key", device.key, 1024)
    owner = _read("device.owner_key", device.owner_key, 64 * _Kib)
    granted = _read("device.certificate", device.certificate, CERTIFICATE_MAX)
    try:
        owner_key = VerifyKey.parse(suite_of_verify_key(owner), owner)
        provider_of(owner_key.suite)  # whatever lacks is said at once
    except (PeerFault, LocalFault) as fault:
        raise ConfigFault(f"{device.owner_key}: device.owner_key: {fault}") from None
    try:
        key = SigningKey.from_seed(owner_key.suite, seed)
    except LocalFault as fault:
        raise ConfigFault(f"{device.key}: device.key: {fault}") from None
    certificate = certificate_file.newest(device.state_dir, granted)
    if key.verify_key.raw not in certificate:
        raise ConfigFault(
            f"{device.certificate}: device.certificate is not of device.key; restore the pair, or "
            "enrol the device again"
        )
    identity = Identity(name, Digest.of(certificate), key, fast_aead(_cpuinfo()))
    transfer = config.transfer
    return MachineSettings(
        fleet,
        identity,
        certificate,
        owner_key,
        transfer.chunk,
        transfer.up_kib_s * _Kib,
        transfer.down_kib_s * _Kib,
        config.serving.bounds,
        config.serving.enabled,
        budget.notice(os.environ),
    )


def check_certificate(section: DeviceSection, settings: MachineSettings) -> None:
    """Raise ConfigFault unless the certificate names this device.

    Whether one of the fleet's CAs stands behind it is for others to judge. Not a part of starting:
    reading X.509 costs a device 2 MB.
    """
    from cryptography import x509

    try:
        subject = [
            str(a.value) for a in x509.load_der_x509_certificate(settings.certificate).subject
        ]
    except ValueError as error:
        raise ConfigFault(f"{section.certificate}: device.certificate: {error}") from None
    if subject != [settings.fleet, settings.identity.device]:
        raise ConfigFault(
            f"{section.certificate}: device.certificate is {'/'.join(subject)[:80]}'s; "
            f"name the certificate of {settings.fleet}/{settings.identity.device}"
        )


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""


def _read(what: str, path: Path, ceiling: int) -> bytes:
    try:
        return read_bounded(path, ceiling)
    except OSError as error:
        raise ConfigFault(f"{path}: {what}: {error.strerror}; enrol the device first") from None
    except LocalFault as fault:
        raise ConfigFault(f"{what}: {fault}") from None

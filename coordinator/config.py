"""The coordinator's configuration file."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from qflare.faults import LocalFault
from qflare.host.config import ConfigFault, Settings
from qflare.host.keystore.settings import KeysSection
from qflare.host.suites import suite_named
from qflare.host.typed import tree_of
from qflare.policy import RoundPolicy
from qflare.schedule import Schedule


class CoordinatorSection(Settings):
    """Who we are, and what we hold."""

    fleet: str
    state_dir: Path
    key: Path  # the coordinator's signing key; [keys] says what keeps it
    manifest: Path  # the owner manifest, signed
    owner_key: Path  # file with the owner's raw verify key


class BrokerSection(Settings):
    """How to reach the broker."""

    url: str
    username: str = "coordinator"
    password_file: Path | None = None
    ca_file: Path | None = None  # PEM, to check the broker by; without it the system's CAs
    protocol: Literal["auto", "5", "3.1.1"] = "auto"


class EnclaveSection(Settings):
    """How to reach the enclave, and what speaks for its platform."""

    socket: Path
    endorsements: Path | None = None  # Intel's collateral (JSON) or AMD's certificates (PEM)


class GenesisSection(Settings):
    """The files that the owner manifest names by digest; read at the first start."""

    graph: Path
    weights: Path


class ScheduleSection(Settings):
    """See qflare.schedule.Schedule."""

    rounds: int
    local_epochs: int
    learning_rate: float
    learning_rate_final_fraction: float
    server_momentum: float
    server_learning_rate: float
    proximal_mu: float = 0.0
    example_clip: float = 0.0
    noise_multiplier: float = 0.0


def _suite(name: str) -> str:
    try:
        return suite_named(name).name
    except LocalFault as fault:
        raise ConfigFault(f"policy.suite: {fault}") from None


class PolicySection(Settings):
    """See qflare.policy.RoundPolicy."""

    suite: str
    codec: str
    min_cohort: int
    max_cohort: int
    clip_norm: float
    weight_cap: int
    deadline_s: int
    schedule: ScheduleSection

    def to_policy(self) -> RoundPolicy:
        """The policy that these values spell; raise PeerFault for one that can't be,
        ConfigFault for a suite that there isn't."""
        values = tree_of(self) | {"suite": _suite(self.suite)}
        return RoundPolicy(**(values | {"schedule": Schedule(**values["schedule"])}))


class RunSection(Settings):
    """How many rounds, and with whom."""

    rounds: Annotated[int, Meta(ge=0)] = 0  # 0: for ever
    cohort: Annotated[int, Meta(ge=0, le=512)] = 0  # devices invited; 0: everybody
    expect_devices: Annotated[int, Meta(ge=0)] = 0  # to wait for before the first round
    wait_s: Annotated[float, Meta(ge=0)] = 60.0  # but no longer than this
    pause_s: Annotated[float, Meta(ge=0)] = 0.0  # between rounds
    keep_models: Annotated[int, Meta(ge=1)] = 50  # released models that are kept


class TransferSection(Settings):
    """How much may be on its way; the credit stays below the broker's queue limit."""

    window: Annotated[int, Meta(ge=1, le=64)] = 4
    credit: Annotated[int, Meta(ge=1, le=4096)] = 256
    regrant_s: Annotated[float, Meta(gt=0)] = 5.0
    open_max: Annotated[int, Meta(ge=1, le=10_000)] = 128


class EnrolmentSection(Settings):
    """Letting devices in by tickets; without this section nobody is.

    Whoever has this device CA's key can let in devices of his own: keep the section only while
    boards are rolled out, with a CA for that alone, if that is too much for the coordinator's host.
    """

    ca_key: Path  # a device CA's signing key; [keys] says what keeps it
    ca_certificate: Path  # its certificate (DER), which the owner manifest names
    brokers: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)]  # where devices connect
    broker_kind: Literal["mosquitto", "nats"]
    device_accounts: Path  # the broker's file of accounts, which the coordinator keeps
    ticket_accounts: Path | None = None  # mosquitto: the password file of the tickets' listener
    ticket_brokers: tuple[str, ...] = ()  # where tickets are let in, if that is elsewhere
    broker_ca: Path | None = None  # PEM; without it devices trust their system's CAs
    reload: tuple[str, ...] = ()  # a command that makes the broker read its accounts again
    broker_pid_file: Path | None = None  # or the process to send SIGHUP to
    approve: Literal["auto", "operator"] = "operator"
    certificate_days: Annotated[int, Meta(ge=1, le=3650)] = 365

    def __post_init__(self) -> None:
        apart = self.ticket_accounts not in (None, self.device_accounts)
        if self.broker_kind == "mosquitto" and not apart:
            raise ValueError("ticket_accounts: mosquitto needs a file for tickets alone")


class LogSection(Settings):
    """Where the log goes."""

    format: Literal["auto", "json", "pretty"] = "auto"
    file: Path | None = None
    level: Literal["debug", "info", "warning", "error"] = "info"


class CoordinatorConfig(Settings):
    """coordinator.toml"""

    coordinator: CoordinatorSection
    broker: BrokerSection
    enclave: EnclaveSection
    genesis: GenesisSection
    policy: PolicySection
    run: RunSection = RunSection()
    transfer: TransferSection = TransferSection()
    log: LogSection = LogSection()
    enrolment: EnrolmentSection | None = None
    keys: KeysSection | None = None

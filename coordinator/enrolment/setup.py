"""From the configuration's [enrolment] to an office that answers; every file is verified."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from coordinator.config import CoordinatorConfig, EnrolmentSection
from coordinator.enrolment.keyring import Keyring, read_secret
from coordinator.enrolment.office import Office, Signer, Terms
from coordinator.enrolment.register import Register
from qflare.crypto.certificates import CERTIFICATE_MAX, issue_device, verify_device
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import CA_MAX
from qflare.envelope import open_signed
from qflare.faults import LocalFault, PeerFault
from qflare.host.broker import BrokerAccounts, BrokerKind, reload_by
from qflare.host.config import ConfigFault
from qflare.host.files import read_bounded
from qflare.host.link_types import parse_url
from qflare.messages import KIB
from qflare.names import DeviceId, FleetId
from qflare.policy import OwnerManifest

_NOBODY = DeviceId("enrolment-check")


def section(config: CoordinatorConfig) -> EnrolmentSection:
    """The section; raise ConfigFault if there is none."""
    if config.enrolment is None:
        raise ConfigFault(
            "the configuration has no [enrolment]; see docs/enrolment.md for what belongs there"
        )
    return config.enrolment


def load_signer(config: CoordinatorConfig) -> Signer:
    """Read the coordinator's key and the manifest that names it; raise ConfigFault."""
    own = config.coordinator
    try:
        owner = VerifyKey.parse(DEFAULT, _read(own.owner_key, 64 * KIB))
        signed = _read(own.manifest, OwnerManifest.CEILING + 64 * KIB)
        manifest = open_signed(OwnerManifest, signed, owner)
        key = SigningKey.from_seed(DEFAULT, _read(own.key, KIB))
        fleet = FleetId.parse(own.fleet)
    except PeerFault as fault:
        raise ConfigFault(f"{own.manifest}: {fault}; correct [coordinator]") from None
    if manifest.fleet != fleet or manifest.coordinator_key != key.verify_key.raw:
        raise ConfigFault(f"{own.manifest} is of another fleet or names another coordinator key")
    return Signer(fleet, key, signed, manifest.digest, owner.raw)


def load_terms(config: CoordinatorConfig, signer: Signer, now: float) -> Terms:
    """Read the device CA, and try it: what it issues has to verify by the owner's manifest."""
    given = section(config)
    try:
        key = SigningKey.from_seed(DEFAULT, read_secret(given.ca_key, DEFAULT.signing_seed_length))
        ca = _read(given.ca_certificate, CERTIFICATE_MAX)
        when = datetime.fromtimestamp(now, UTC)
        made = issue_device(key, ca, _NOBODY, key.verify_key, when, 1)
        owner = VerifyKey.parse(DEFAULT, signer.owner_key)
        manifest = open_signed(OwnerManifest, signer.manifest, owner)
        verify_device(made, manifest.device_cas, when, signer.fleet, frozenset())
    except (PeerFault, LocalFault) as fault:
        raise ConfigFault(
            f"{given.ca_certificate}: {fault}; enrolment needs a device CA that the owner manifest "
            "names, and its key"
        ) from None
    broker_ca = check_brokers(given)
    return Terms(key, ca, given.certificate_days, given.brokers, broker_ca, given.approve == "auto")


def check_brokers(given: EnrolmentSection) -> bytes:
    """The brokers' CA (PEM, may be empty), with all addresses looked at; raise ConfigFault."""
    try:
        for url in (*given.brokers, *given.ticket_brokers):
            parse_url(url)
    except LocalFault as fault:
        raise ConfigFault(f"enrolment: {fault}") from None
    pem = b"" if given.broker_ca is None else _read(given.broker_ca, CA_MAX)
    if given.broker_ca is not None and b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigFault(f"{given.broker_ca}: enrolment.broker_ca: no PEM certificate in it")
    return pem


def accounts_of(config: CoordinatorConfig) -> BrokerAccounts:
    """The keeper of the broker's files."""
    given = section(config)
    kind = BrokerKind(given.broker_kind)
    return BrokerAccounts(
        kind,
        FleetId.parse(config.coordinator.fleet),
        given.device_accounts,
        given.ticket_accounts or given.device_accounts,
        reload_by(kind, given.reload, given.broker_pid_file),
    )


@dataclass(frozen=True)
class Opened:
    """An office with its register and keys."""

    office: Office
    register: Register
    keyring: Keyring


def open_office(config: CoordinatorConfig, database: Path, now: float) -> Opened:
    """Everything that the daemon needs; the database is there and migrated."""
    signer = load_signer(config)
    terms = load_terms(config, signer, now)
    register = Register(database)
    try:
        keyring = Keyring.load(database.parent, new=register.empty())
    except LocalFault:
        register.close()
        raise
    return Opened(Office(signer, terms, keyring, register), register, keyring)


def _read(path: Path, ceiling: int) -> bytes:
    try:
        return read_bounded(path, ceiling)
    except OSError as error:
        raise ConfigFault(f"{path}: {error.strerror}; correct its name or mode") from None
    except LocalFault as fault:
        raise ConfigFault(str(fault)) from None

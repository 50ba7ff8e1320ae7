"""From the configuration's [enrolment] to an office that answers; every file is verified."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from coordinator.authority import load_authority, load_key
from coordinator.config import CoordinatorConfig, EnrolmentSection
from coordinator.enrolment.keyring import Keyring
from coordinator.enrolment.office import Office, Signer, Terms
from coordinator.enrolment.register import Register
from qflare.crypto.certificates import CERTIFICATE_MAX, verify_device
from qflare.crypto.issuing import issue_device
from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import CA_MAX
from qflare.faults import LocalFault, PeerFault
from qflare.host.broker import BrokerAccounts, BrokerKind, reload_by
from qflare.host.config import ConfigFault, read_file
from qflare.host.link_types import parse_url
from qflare.names import DeviceId, FleetId
from qflare.owners import open_manifest

_NOBODY = DeviceId("enrolment-check")


def section(config: CoordinatorConfig) -> EnrolmentSection:
    """The section; raise ConfigFault if there is none."""
    if config.enrolment is None:
        raise ConfigFault(
            "the configuration has no [enrolment]; see docs/enrolment.md for what belongs there"
        )
    return config.enrolment


def load_signer(config: CoordinatorConfig) -> Signer:
    """From the coordinator's key and the manifest that names it; raise ConfigFault."""
    own = load_authority(config)
    return Signer(own.fleet, own.key, own.signed, own.manifest.digest, own.owner.raw)


def load_terms(config: CoordinatorConfig, signer: Signer, now: float) -> Terms:
    """Read the device CA, and try it: what it issues has to verify by the owner's manifest."""
    given = section(config)
    key = load_key(config, given.ca_key, DEFAULT)
    try:
        ca = read_file(given.ca_certificate, CERTIFICATE_MAX)
        when = datetime.fromtimestamp(now, UTC)
        made = issue_device(key, ca, _NOBODY, key.verify_key, when, 1)
        owner = VerifyKey.parse(DEFAULT, signer.owner_key)
        manifest, _ = open_manifest(signer.manifest, owner, signer.fleet)
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
    pem = b"" if given.broker_ca is None else read_file(given.broker_ca, CA_MAX)
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

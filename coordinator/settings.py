"""From the configuration to what the machine is told: everything is read and verified once."""

from pathlib import Path

from coordinator.book import RunSettings
from coordinator.config import CoordinatorConfig
from coordinator.models import ModelStore
from coordinator.transfers import Limits, update_ceiling
from qflare.compression import parse_codec
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import open_signed
from qflare.faults import LocalFault, PeerFault
from qflare.host.config import ConfigFault
from qflare.host.files import read_bounded
from qflare.messages import BLOB_MAX, KIB
from qflare.names import Digest, FleetId
from qflare.policy import OwnerManifest, RoundPolicy


def load_settings(
    config: CoordinatorConfig, models: ModelStore | None, session: int
) -> RunSettings:
    """Read key, manifest and genesis, and check that they belong together.

    With `models`, the genesis blobs are stored there, and aren't needed as files any more.
    Raises ConfigFault, which says what to correct.
    """
    try:
        return _load(config, models, session)
    except PeerFault as fault:
        raise ConfigFault(f"coordinator configuration: {fault}; correct it there") from None
    except ConfigFault:
        raise
    except LocalFault as fault:
        raise ConfigFault(str(fault)) from None


def _load(config: CoordinatorConfig, models: ModelStore | None, session: int) -> RunSettings:
    own = config.coordinator
    fleet = FleetId.parse(own.fleet)
    owner_key = VerifyKey.parse(DEFAULT, _read(own.owner_key, 64 * KIB))
    signed = _read(own.manifest, OwnerManifest.CEILING + 64 * KIB)
    manifest = open_signed(OwnerManifest, signed, owner_key)
    key = SigningKey.from_seed(owner_key.suite, _read(own.key, KIB))
    if manifest.fleet != fleet:
        raise ConfigFault(f"{own.manifest} is for fleet {manifest.fleet}, not {fleet}")
    if manifest.coordinator_key != key.verify_key.raw:
        raise ConfigFault(f"{own.key} is not the coordinator key that {own.manifest} names")
    policy = _policy(config, manifest)
    genesis = manifest.genesis
    files = (
        (config.genesis.graph, genesis.graph, "graph"),
        (config.genesis.weights, genesis.weights, "weights"),
    )
    sizes: dict[Digest, int] = {}
    for path, digest, what in files:
        if models is not None:
            models.import_file(path, digest, what)
            sizes[digest] = models.size(digest)
        else:
            data = _read(path, BLOB_MAX)
            if Digest.of(data) != digest:
                raise ConfigFault(f"{path} is not the {what} that {own.manifest} names: {digest}")
            sizes[digest] = len(data)
    transfer, run = config.transfer, config.run
    payload = parse_codec(policy.codec).payload_ceiling(genesis.size)
    suite = owner_key.suite
    return RunSettings(
        fleet=fleet,
        key=key,
        manifest=manifest,
        manifest_bytes=signed,
        policy=policy,
        genesis_sizes=sizes,
        update_ceiling=update_ceiling(
            payload, genesis.classes, suite.seal_overhead, suite.signature_length
        ),
        session=session,
        rounds=run.rounds,
        cohort=run.cohort,
        expect_devices=run.expect_devices,
        wait_s=run.wait_s,
        pause_s=run.pause_s,
        keep_models=run.keep_models,
        limits=Limits(
            window=transfer.window,
            credit=transfer.credit,
            open_max=transfer.open_max,
            regrant_s=transfer.regrant_s,
        ),
    )


def _policy(config: CoordinatorConfig, manifest: OwnerManifest) -> RoundPolicy:
    policy = config.policy.to_policy()
    cohort = config.run.cohort
    if cohort:
        if not policy.min_cohort <= cohort <= policy.max_cohort:
            raise ConfigFault(
                f"run.cohort {cohort} is outside policy.min_cohort…max_cohort "
                f"({policy.min_cohort}…{policy.max_cohort}); change one of them"
            )
        # The enclave draws max_cohort of the candidates.
        policy = RoundPolicy.from_value([*policy.to_value()[:3], cohort, *policy.to_value()[4:]])
    manifest.bounds.verify(policy)
    return policy


def _read(path: Path, ceiling: int) -> bytes:
    try:
        return read_bounded(path, ceiling)
    except OSError as error:
        raise ConfigFault(f"{path}: {error.strerror}; correct its name or mode") from None

"""From the configuration to what the machine is told: everything is read and verified once."""

from coordinator.authority import load_authority
from coordinator.book import RunSettings
from coordinator.config import CoordinatorConfig
from coordinator.models import ModelStore
from coordinator.transfers import Limits, update_ceiling
from qflare.compression import parse_codec
from qflare.faults import LocalFault, PeerFault
from qflare.host.config import ConfigFault, read_file
from qflare.messages import BLOB_MAX
from qflare.names import Digest
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
    own = load_authority(config)
    manifest = own.manifest
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
            data = read_file(path, BLOB_MAX)
            if Digest.of(data) != digest:
                raise ConfigFault(f"{path} is not the {what} that the manifest names: {digest}")
            sizes[digest] = len(data)
    transfer, run = config.transfer, config.run
    payload = parse_codec(policy.codec).payload_ceiling(genesis.size)
    suite = own.key.suite
    return RunSettings(
        fleet=own.fleet,
        key=own.key,
        manifest=manifest,
        manifest_bytes=own.signed,
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

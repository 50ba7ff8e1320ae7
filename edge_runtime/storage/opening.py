"""From the configuration to an open store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from edge_runtime.storage.database import FILES
from edge_runtime.storage.place import place_of
from edge_runtime.storage.sealing import SEAL, Seal, find_keys, open_seal, read_seal
from edge_runtime.storage.vault import Vault
from edge_runtime.store import FORGETTING, GUARD, Bounds, Store
from qflare.host.config import ConfigFault, Settings
from qflare.host.files import ensure_private_dir
from qflare.host.logs import get_logger

_MB = 1_000_000
SAMPLES: Final = "samples"  # the purpose of the key of the ring and of what is made of tables


class StorageSection(Settings):
    """What may be kept on the device, and how.

    `models_mb` bounds the models, `reserve_mb` is room that is held for the round at work.
    `key_file` has the owner's key for encryption at rest, if systemd doesn't give it as the
    credential `storage.key`; `previous_key_file` the one before, while it is being replaced.
    """

    models_mb: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    reserve_mb: Annotated[int, Meta(ge=0, le=10_000)] = 4
    key_file: Path | None = None
    previous_key_file: Path | None = None

    def bounds(self) -> Bounds:
        return Bounds(self.models_mb * _MB, self.reserve_mb * _MB)


def open_store(directory: Path, section: StorageSection, environ: Mapping[str, str]) -> Store:
    """Open the state directory of a device, encrypted if there is a key; log what was mended.

    Raises ConfigFault for a key or directory that is not right, LocalFault as `Store` does.
    """
    log = get_logger("storage")
    warning = _warning(directory)
    if warning is not None:
        log.warning("storage", detail=f"{directory}: {warning}")
    seal = _seal(directory, section, environ)
    store = Store(directory, seal.vault() if seal else Vault(), section.bounds())
    while store.findings:  # the next ones are others
        log.error("storage", detail=store.findings.pop(0))
    if seal is not None and not seal.whole:
        try:
            store.reseal()
            seal.finish()
        except BaseException:
            store.close()
            raise
        store.close()  # under the newest key alone from here on
        return Store(directory, seal.vault(), section.bounds())
    return store


def purpose_key(
    directory: Path,
    section: StorageSection,
    environ: Mapping[str, str],
    purpose: str,
    *,
    create: bool = False,
) -> bytes | None:
    """32 bytes to encrypt something else of this device with, such as its samples.

    None if the device has no key. The same key for the same purpose at every start, whatever key
    the owner changes to; gone when the device is made to forget. Any process may ask that may read
    the directory and the owner's key; with `create` also before the daemon has ever started, and
    then never while the device is being erased. Raises ConfigFault as `open_store` does.
    """
    keys = find_keys(environ, section.key_file, section.previous_key_file)
    if create:
        if (directory / FORGETTING).exists():
            raise ConfigFault(f"{directory} is half erased; run `qflare device forget` again")
        if keys.current is not None and not (directory / SEAL).exists():
            _seal(directory, section, environ)
    seal = read_seal(directory, keys)
    return seal.purpose_key(purpose) if seal else None


def _seal(directory: Path, section: StorageSection, environ: Mapping[str, str]) -> Seal | None:
    keys = find_keys(environ, section.key_file, section.previous_key_file)
    try:
        ensure_private_dir(directory)
        used = (directory / FILES[0]).exists() or (directory / GUARD).exists()
        return open_seal(directory, keys, used)
    except OSError as error:
        raise ConfigFault(
            f"{directory}: {error.strerror}; device.state_dir must be on a disk that this user can "
            "write, also where the root file system is read-only"
        ) from None


def _warning(directory: Path) -> str | None:
    place = place_of(directory)
    return place.warning if place else None

"""The enclave's configuration: one TOML table, parsed strictly, by the standard library alone."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from qflare.faults import LocalFault, PeerFault
from qflare.names import FleetId
from qflare.verifiers.simulated import INSECURE_SIMULATED

PROVIDERS = (INSECURE_SIMULATED, "tsm", "gramine", "nsm", "tpm")
THREADS_MAX = 64


@dataclass(frozen=True, slots=True)
class Config:
    """The table `[enclave]`."""

    fleet: FleetId
    state_dir: Path  # private; made if it isn't there
    socket: Path  # its directory too
    owner_key: Path  # raw verify key of the fleet's owner
    provider: str = INSECURE_SIMULATED
    threads: int = 2  # that verify, open and decode updates
    insecure_seed: int | None = None  # makes cohorts reproducible; simulated evidence only

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse enclave.toml; raise LocalFault that names the key and what it wants."""
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise LocalFault(f"no TOML: {error}") from None
        table = tables.pop("enclave", None)
        if not isinstance(table, dict) or tables:
            raise LocalFault("want one table, [enclave], and no other")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(table.keys() - known):
            raise LocalFault(f"[enclave] has no key {unknown[0]!r}; it has {sorted(known)}")
        for key in ("fleet", "state_dir", "socket", "owner_key"):
            if not _is(table.get(key), str) or not table[key]:
                raise LocalFault(f"[enclave] {key}: want a text")
        try:
            table["fleet"] = FleetId.parse(table["fleet"])
        except PeerFault as fault:
            raise LocalFault(f"[enclave] fleet: {fault.detail}") from None
        for key in ("state_dir", "socket", "owner_key"):
            table[key] = Path(table[key])
        config = cls(**table)
        if config.provider not in PROVIDERS:
            raise LocalFault(f"[enclave] provider: want one of {list(PROVIDERS)}")
        if not _is(config.threads, int) or not 1 <= config.threads <= THREADS_MAX:
            raise LocalFault(f"[enclave] threads: want 1 to {THREADS_MAX}")
        if config.insecure_seed is not None:
            if not _is(config.insecure_seed, int):
                raise LocalFault("[enclave] insecure_seed: want a whole number")
            if config.provider != INSECURE_SIMULATED:
                raise LocalFault("[enclave] insecure_seed goes with simulated evidence only")
        return config


def _is(value: Any, kind: type) -> bool:
    return type(value) is kind

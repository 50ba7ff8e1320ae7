"""SIGHUP: read the configuration again, take what may change, and name what needs a new start."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from edge_runtime.budget import training_mib
from edge_runtime.config import EdgeConfig
from edge_runtime.device import Device
from edge_runtime.training.process import ProcessSettings
from edge_runtime.training.service import ServiceSettings, Training
from edge_runtime.watch import Watch
from qflare.faults import LocalFault
from qflare.host.boards import detect
from qflare.host.logs import get_logger
from qflare.host.notify import notify

# Sections that are looked at for every job, or for every start of the training process.
LIVE: Final = frozenset({"training", "process", "data", "gates", "log"})


def training_settings(config: EdgeConfig) -> ServiceSettings:
    """How the training process is to be kept."""
    process = config.process
    memory = training_mib(process.memory_mb, detect())
    return ServiceSettings(
        ProcessSettings(config.training.threads, memory, process.nice),
        float(process.idle_s),
        float(process.hung_after_s),
    )


class Reloading:
    """What happens on SIGHUP."""

    def __init__(
        self,
        read: Callable[[], list[EdgeConfig]],
        configs: Sequence[EdgeConfig],
        devices: Sequence[Device],
        training: Training,
        watch: Watch,
        configure_logs: Callable[[EdgeConfig], None],
    ) -> None:
        self._read, self._configs = read, list(configs)
        self._devices, self._training, self._configure_logs = devices, training, configure_logs
        self._watch = watch
        self._log = get_logger("reload")

    def now(self) -> None:
        """sd_notify(3) wants RELOADING=1 with the time, and READY=1 when it is over."""
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._take(self._read())
        except LocalFault as fault:
            self._log.error("the configuration is wrong and was not taken", detail=str(fault))
        except OSError as error:
            self._log.error("the configuration can't be taken", detail=str(error))
        finally:
            notify("READY=1")

    def _take(self, found: list[EdgeConfig]) -> None:
        if len(found) != len(self._configs):
            self._log.error("there are more or fewer devices than before; start anew for them")
            return
        restart = {
            key
            for old, new in zip(self._configs, found, strict=True)
            for key in changes(old, new)
            if key.partition(".")[0] not in LIVE
        }
        taken = [_live(old, new) for old, new in zip(self._configs, found, strict=True)]
        changed = sorted(
            {k for o, n in zip(self._configs, taken, strict=True) for k in changes(o, n)}
        )
        self._configs = taken
        self._configure_logs(taken[0])
        self._training.settings = training_settings(taken[0])
        self._watch.configure(taken[0])
        for device, config in zip(self._devices, taken, strict=True):
            device.configure(config)
            device.reconnect()
        self._log.info("configuration read again", changed=", ".join(changed) or "nothing")
        if restart:
            keys = ", ".join(sorted(restart))
            self._log.warning("these changes need a new start: systemctl restart", settings=keys)


def changes(old: EdgeConfig, new: EdgeConfig) -> Iterator[str]:
    """The keys that differ, section.key; never a value."""
    for name in EdgeConfig.__struct_fields__:
        ours, theirs = getattr(old, name), getattr(new, name)
        if ours == theirs:
            continue
        before, after = _keys(ours), _keys(theirs)
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield f"{name}.{key}" if key else name


def _keys(section: Any) -> dict[str, Any]:
    return msgspec.structs.asdict(section) if isinstance(section, msgspec.Struct) else {"": section}


def _live(old: EdgeConfig, new: EdgeConfig) -> EdgeConfig:
    """The old one with the sections of the new one that may change while it runs."""
    return msgspec.structs.replace(old, **{name: getattr(new, name) for name in LIVE})

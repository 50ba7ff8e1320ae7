"""The section [serving] of edge.toml: the slots, what a new model must reach, and the local API."""

import grp
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace

from edge_runtime.acceptance import Bounds
from qflare.host import config as host_config
from qflare.host.config import ConfigFault, Part, Settings

SOCKET: Final = Path("/run/qflare/model.sock")


class ServingSection(Settings):
    """How applications on the device get at the active model.

    `enabled`: an accepted model is put at their disposal. Without, which simulations want, this
    device only trains. `directory` is where the slots are; without, they are in the state
    directory, which only the daemon's own user may enter. Members of `group` may read the models
    and use the socket.

    A release becomes active if it isn't much worse on the local data than the model that is:
    `acceptance.Bounds` says what the three bounds mean.

    The rest is of the process that answers on `socket`. It takes `connections` at a time, and
    requests of `request_kb`. `linger_ms` is how long a request waits for others to share a run of
    the interpreter with; without, those that arrive during a run share the next one. A client has
    `timeout_s` for sending a request, and for taking the answer. The process ends after
    `idle_exit_s` without a request if systemd can start it again (0: never).
    """

    enabled: bool = True
    directory: Path | None = None
    group: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    max_accuracy_drop: Annotated[float, Meta(ge=0, le=1)] = 0.1
    max_loss_rise: Annotated[float, Meta(ge=0, le=1e6)] = 0.5
    min_examples: Annotated[int, Meta(ge=1, le=10**9)] = 20
    socket: Path = SOCKET
    threads: Annotated[int, Meta(ge=1, le=16)] = 1
    connections: Annotated[int, Meta(ge=1, le=1024)] = 32
    request_kb: Annotated[int, Meta(ge=1, le=64 * 1024)] = 4096
    linger_ms: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    timeout_s: Annotated[float, Meta(ge=0.1, le=600)] = 10.0
    idle_exit_s: Annotated[float, Meta(ge=0, le=7 * 86_400)] = 600.0

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.max_accuracy_drop, self.max_loss_rise, self.min_examples)

    def slots_in(self, state_dir: Path) -> Path:
        """Where the slots are, for a device with this state directory."""
        return self.directory or state_dir / "model"

    @property
    def group_id(self) -> int | None:
        """The group's number; ConfigFault if there is no such group."""
        if self.group is None:
            return None
        try:
            return grp.getgrnam(self.group).gr_gid
        except KeyError:
            raise ConfigFault(
                f"serving.group: there is no group {self.group[:32]!r} on this machine; make it "
                "with groupadd --system, or leave the setting out"
            ) from None


class _Device(Part):
    state_dir: Path


class _File(Part):
    device: _Device
    serving: ServingSection = ServingSection()


@dataclass(frozen=True, slots=True)
class Serving:
    """What the process that answers needs of edge.toml; it reads no key and no certificate."""

    slots: Path
    section: ServingSection


def under(base: Path, section: ServingSection) -> ServingSection:
    """Paths are relative to the configuration file."""
    directory = None if section.directory is None else base / section.directory
    return replace(section, directory=directory, socket=base / section.socket)


def load(path: Path, environ: Mapping[str, str]) -> Serving:
    """Read these parts of edge.toml; raise ConfigFault for anything wrong in them."""
    value = host_config.load(_File, "edge", path, environ).value
    base = path.resolve().parent
    section = under(base, value.serving)
    return Serving(section.slots_in(base / value.device.state_dir), section)

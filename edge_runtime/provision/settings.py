"""edge.toml: what enrolment knows of it, and what the technician adds.

The technician's part (data, training, gates, …) is taken as it was written, comments and all. The
sections that enrolment fills are not his to give.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, Final

from edge_runtime.enrol import Enrolled, edge_tables
from edge_runtime.provision.dialogue import SETTINGS_MAX
from edge_runtime.provision.system import System
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.files import read_bounded, write_atomic

OURS: Final = frozenset({"device", "broker"})
FILE: Final = "edge.toml"
MARKER: Final = "enrolled"  # all is done; the unit looks for it, and starts no more
HEAD: Final = "# Written by provisioning: [device] and [broker] by enrolment, the rest as given.\n"
DEFAULT_DATA: Final = """\
# Where the samples come from: put them there, or name another source.
[data]
kind = "npz"
path = "/var/lib/qflare/data/samples.npz"
"""


def verify(toml: str) -> dict[str, Any]:
    """The sections that this text holds.

    Raises PeerFault if it isn't TOML, is too long, or has a section that enrolment fills.
    """
    if len(toml.encode()) > SETTINGS_MAX:
        raise PeerFault(Reason.TOO_LARGE, f"settings: more than {SETTINGS_MAX} bytes")
    try:
        tree = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise PeerFault(Reason.MALFORMED, f"settings: not TOML: {error}") from None
    ours = sorted(OURS & tree.keys())
    if ours:
        raise PeerFault(
            Reason.BAD_VALUE, f"settings: [{ours[0]}] is filled at enrolment; remove it there"
        )
    loose = sorted(key for key, value in tree.items() if not isinstance(value, dict | list))
    if loose:
        raise PeerFault(Reason.BAD_VALUE, f"settings: {loose[0]} stands in no section")
    return tree


def edge_toml(enrolled: Enrolled, state: Path, settings: str) -> str:
    """The whole file, for the directory that enrolment's files are in."""
    tables = edge_tables(enrolled)
    tables["device"]["state_dir"] = str(state)
    ours = [f"[{name}]\n{_lines(table)}" for name, table in tables.items()]
    return "\n".join([HEAD, *ours, settings.strip() or DEFAULT_DATA.strip()]) + "\n"


def write_edge_toml(system: System, enrolled: Enrolled, settings: str) -> None:
    """Write the file that the daemon reads.

    Raises OSError if the directory can't be written.
    """
    content = edge_toml(enrolled, system.data, settings)
    write_atomic(system.config / FILE, content.encode(), 0o644)


def replace(path: Path, settings: str) -> None:
    """Put `settings` in the place of what an edge.toml has beside [device] and [broker].

    Raises LocalFault if the file isn't one of ours.
    """
    try:
        old = read_bounded(path, 256 * 1024).decode()
        tree = tomllib.loads(old)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LocalFault(f"{path}: {error}; write it by hand") from None
    kept = [f"[{name}]\n{_lines(tree[name])}" for name in sorted(OURS & tree.keys(), reverse=True)]
    body = settings.strip() or DEFAULT_DATA.strip()
    content = "\n".join([HEAD, *kept, body]) + "\n"
    write_atomic(path, content.encode(), 0o644)


def _lines(section: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())

"""How a device stands with updates: for telemetry, `qflare doctor` and people. I/O, reads only."""

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.upgrade import staging
from edge_runtime.upgrade.places import OPT, STATE, Bad, Places
from qflare import __version__
from qflare.faults import LocalFault


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """None and empty for what isn't there, or can't be read by this user (`trouble` says so)."""

    running: str  # this very program
    current: str | None  # what the daemon is started from
    proven: str | None
    previous: str | None
    sequence: int
    phase: str  # of the update under way; empty without one
    staged: int
    last: str  # how the last one ended
    bad: tuple[Bad, ...]
    trouble: str = ""

    def counters(self) -> tuple[tuple[str, int], ...]:
        """For telemetry: sorted names, whole numbers."""
        return (
            ("update_failed", len(self.bad)),
            ("update_pending", int(bool(self.phase)) + self.staged),
            ("update_sequence", self.sequence),
        )


def update_status(opt: Path = OPT, state_dir: Path = STATE) -> UpdateStatus:
    """Look; never raises for what it finds."""
    places = Places(opt)
    try:
        ledger, job = places.ledger(), places.job()
        staged = 0
        with staging.staged_dir(state_dir) as directory:
            if directory is not None:
                staged = len(staging.names(directory))
        return UpdateStatus(
            running=__version__,
            current=places.linked("current"),
            proven=places.linked("proven"),
            previous=ledger.previous,
            sequence=places.lowest(),
            phase=f"{job.phase} {job.version}" if job else "",
            staged=staged,
            last=ledger.last,
            bad=ledger.bad,
        )
    except LocalFault as fault:
        return UpdateStatus(__version__, None, None, None, 0, "", 0, "", (), str(fault))

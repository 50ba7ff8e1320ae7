"""Taking over what was put on the card: network, settings, ticket, owner's key. I/O."""

from pathlib import Path
from typing import Final

from edge_runtime.provision.desk import Desk
from edge_runtime.provision.dialogue import (
    SETTINGS_MAX,
    TICKET_MAX,
    GiveTicket,
    Network,
    Settings,
)
from edge_runtime.provision.memory import Memory
from edge_runtime.provision.system import shred
from qflare.enrolment import peek_terms
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import read_bounded
from qflare.host.logs import get_logger

log = get_logger(__name__)

TICKET: Final = "ticket"
OWNER: Final = "owner.key"
SETTINGS: Final = "settings.toml"
NETWORK: Final = "network"


def take_over(folder: Path, desk: Desk, memory: Memory) -> None:
    """Take what is in `folder`, durably, and then remove it there.

    What was taken before a cut is taken again: the same files give the same. Raises LocalFault for
    files that are not ours to read; a ticket that doesn't fit stays, and is said to.
    """
    ticket = _read(folder / TICKET, TICKET_MAX)
    toml = _read(folder / SETTINGS, SETTINGS_MAX)
    wanted = _read(folder / NETWORK, Network.CEILING)
    if wanted is not None:
        try:
            desk.carry_out_now(Network.parse(wanted))
        except PeerFault as fault:
            raise LocalFault(f"{folder / NETWORK}: {fault}; write the card anew") from None
        shred(folder / NETWORK)
    if toml is not None:
        desk.carry_out_now(Settings(toml.decode(errors="replace")))
        shred(folder / SETTINGS)
    if ticket is None:
        return
    if not desk.enrolled:
        owner = _read(folder / OWNER, 4096)
        try:
            owner = owner if owner is not None else peek_terms(ticket).owner_key
        except PeerFault as fault:
            raise LocalFault(
                f"{folder / TICKET}: no ticket: {fault}; write the card anew"
            ) from None
        desk.carry_out_now(GiveTicket(ticket, owner))
    for name in (TICKET, OWNER):
        shred(folder / name)
    log.info("took over", folder=folder, waits=memory.ticket() is not None)


def _read(path: Path, ceiling: int) -> bytes | None:
    try:
        return read_bounded(path, ceiling)
    except FileNotFoundError:
        return None

"""The phases of a device, and which may follow which: documentation and tests read this table.

Whether there is a connection is another question: training goes on without one.
"""

from enum import StrEnum


class Phase(StrEnum):
    """What a device is doing about rounds."""

    WAITING = "waiting"  # for an offer that it can answer
    APPRAISING = "appraising"  # an offer is there, and something to judge it by is not
    FETCHING = "fetching"  # the offer is accepted, and a blob is missing
    TRAINING = "training"  # up to the sealed update
    SENDING = "sending"  # the update is in the outbox until there is a receipt


_ANY_IDLE = frozenset({Phase.WAITING, Phase.SENDING})
_STARTS = frozenset({Phase.APPRAISING, Phase.FETCHING, Phase.TRAINING})

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.WAITING: _STARTS | {Phase.SENDING},  # sending: after a restart
    Phase.APPRAISING: _STARTS | _ANY_IDLE,  # idle: withdrawn, refused, or not invited
    Phase.FETCHING: _STARTS | _ANY_IDLE,  # appraising: a later offer took its place
    Phase.TRAINING: _STARTS | _ANY_IDLE,  # waiting: it failed; fetching: a blob was lost
    Phase.SENDING: _STARTS | {Phase.WAITING},
}

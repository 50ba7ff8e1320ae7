"""One thing that was looked at, and how looking may not fail."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from qflare.faults import LocalFault, PeerFault

_WORDS_MAX: Final = 400
_REPORT: Final = "please report this, with the output of qflare doctor --json"


class State(StrEnum):
    """BAD is what stops the device; WARN is what should be mended; SKIPPED couldn't be seen."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """`words` say what was found; `remedy` what to do next, wherever that isn't nothing."""

    name: str
    state: State
    words: str
    remedy: str = ""


Check = Callable[[], Finding | Iterable[Finding]]


def ok(name: str, words: str) -> Finding:
    return Finding(name, State.OK, words)


def warn(name: str, words: str, remedy: str) -> Finding:
    return Finding(name, State.WARN, words, remedy)


def bad(name: str, words: str, remedy: str) -> Finding:
    return Finding(name, State.BAD, words, remedy)


def skipped(name: str, words: str, remedy: str = "") -> Finding:
    return Finding(name, State.SKIPPED, words, remedy)


def examine(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Every check's findings; one that fails is itself bad, with its reason and no traceback."""
    for name, check in checks:
        try:
            found = check()
            yield from [found] if isinstance(found, Finding) else list(found)
        except LocalFault as fault:
            yield split(name, str(fault))
        except PeerFault as fault:
            yield bad(name, str(fault), _REPORT)
        except Exception as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())
            yield bad(name, f"the check itself failed: {words[:_WORDS_MAX]}", _REPORT)


def split(name: str, fault: str) -> Finding:
    """A fault as a finding: what comes behind its last semicolon says what to do."""
    words, _, remedy = " ".join(fault.split()).rpartition("; ")
    return bad(name, words or remedy, remedy if words else "do as it says")

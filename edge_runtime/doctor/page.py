"""The page: a line for each finding, green or red on a terminal, or JSON. Pure."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

from edge_runtime.doctor.finding import Finding, State
from qflare.host.wrapping import wrapped

_MARK: Final = {State.OK: "ok  ", State.WARN: "warn", State.BAD: "BAD ", State.SKIPPED: "-   "}
_COLOUR: Final = {State.OK: "32", State.WARN: "33", State.BAD: "1;31", State.SKIPPED: "2"}
_NAME: Final = 16  # columns of a name
_MARKED: Final = 6  # columns of a mark and what is behind it
_INDENT: Final = _MARKED + _NAME + 1


def line(finding: Finding, colour: bool) -> str:
    """One finding in lines of at most 80 columns (a path may be longer); its remedy is below it."""
    mark = _MARK[finding.state]
    if colour:
        mark = f"\x1b[{_COLOUR[finding.state]}m{mark}\x1b[0m"
    text = f"{_plain(finding.name):{_NAME}} {_plain(finding.words)}"
    first, *more = wrapped(text, " " * _MARKED, " " * _INDENT) or [" " * _MARKED]
    lines = [f"{mark}  {first[_MARKED:]}", *more]
    if finding.remedy and finding.state is not State.OK:
        space = " " * _INDENT
        lines += wrapped(_plain(finding.remedy), f"{space}-> ", f"{space}   ")
    return "\n".join(line.rstrip() for line in lines)


def total(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = Counter(finding.state for finding in findings)
    bad, warned = counts[State.BAD], counts[State.WARN]
    if not bad and not warned:
        return f"all is well: {counts[State.OK]} checks"
    return f"{bad} bad, {warned} to be mended, {counts[State.OK]} ok"


def as_json(findings: Sequence[Finding]) -> str:
    """One object, for scripts."""
    entries = [
        {"name": f.name, "state": str(f.state), "words": f.words, "remedy": f.remedy}
        for f in findings
    ]
    return json.dumps({"ok": healthy(findings), "findings": entries}, indent=1)


def healthy(findings: Sequence[Finding]) -> bool:
    """Is nothing red?"""
    return all(finding.state is not State.BAD for finding in findings)


def _plain(text: str) -> str:
    """No line breaks, no escape sequences: brokers and files have their say in here."""
    return "".join(c if c.isprintable() else " " for c in text)

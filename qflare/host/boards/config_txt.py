"""config.txt of a Raspberry Pi: lines are added in a block of our own, all others are left alone.

Sections filter what follows them (`[pi4]`, `[all]`); filters of a kind replace each other, those of
different kinds have all to hold, and `[all]` ends them (raspberrypi/documentation, config.txt,
"Conditional filters"). A later `key=value` wins over an earlier one; overlays add up. Pure.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from qflare.faults import LocalFault

BEGIN: Final = '# begin qflare (kept by "qflare board apply"; changes in here are lost)'
END: Final = "# end qflare"
_FILTER: Final = re.compile(r"\[([^\]]*)\]")
_MODEL: Final = re.compile(r"(pi|cm)[0-9]\w*\+?|board-type=.*")
_ADDS: Final = ("dtoverlay", "dtparam", "include")


@dataclass(frozen=True, slots=True)
class Line:
    """A setting, and whether it applies: True, False, or None if that depends on more."""

    key: str
    text: str
    applies: bool | None


def edit(text: str, wanted: Sequence[str], filters: Collection[str]) -> str:
    """The text with every line of `wanted` in force on boards for which `filters` hold.

    What already is in force isn't added. Editing twice is editing once, and an empty `wanted`
    takes out what was added. LocalFault if the marks of our block don't pair.
    """
    rest = _without_block(text)
    lines = tuple(read(rest, filters))
    missing = [line for line in wanted if not _in_force(line, lines)]
    if not missing:
        return rest
    newline = "\r\n" if "\r\n" in rest or rest.endswith("\r") else "\n"
    if rest and not rest.endswith("\n"):
        rest += newline
    return rest + "".join(line + newline for line in (BEGIN, "[all]", *missing, END))


def missing(text: str, wanted: Sequence[str], filters: Collection[str]) -> list[str]:
    """The lines of `wanted` that aren't in force."""
    lines = tuple(read(text, filters))
    return [line for line in wanted if not _in_force(line, lines)]


def read(text: str, filters: Collection[str]) -> Iterator[Line]:
    """The settings in their order."""
    active: dict[str, bool | None] = {}
    for raw in text.split("\n"):
        line = raw.strip()
        if found := _FILTER.fullmatch(line):
            _enter(active, found[1], filters)
        elif line and not line.startswith("#"):
            key = line.partition("=")[0]
            applies = False if False in active.values() else None if active else True
            if applies is None and all(active.values()):
                applies = True
            yield Line(key, line, applies)


def _enter(active: dict[str, bool | None], name: str, filters: Collection[str]) -> None:
    if name == "all":
        active.clear()
    elif name == "none":
        active["none"] = False
    elif _MODEL.fullmatch(name):
        active["model"] = name in filters
        active.pop("none", None)
    else:  # a serial number, a display, a pin: known only on the board
        active["other"] = None


def _in_force(wanted: str, lines: Sequence[Line]) -> bool:
    key = wanted.partition("=")[0]
    if key in _ADDS:
        return any(line.text == wanted and line.applies for line in lines)
    last = [line for line in lines if line.key == key and line.applies is not False]
    return bool(last) and last[-1].text == wanted and last[-1].applies is True


def _without_block(text: str) -> str:
    lines = text.split("\n")
    marks = [i for i, line in enumerate(lines) if line.strip() in (BEGIN, END)]
    if not marks:
        return text
    if [lines[i].strip() for i in marks] != [BEGIN, END]:
        raise LocalFault(
            "config.txt: the lines '# begin qflare' and '# end qflare' don't pair; "
            "take out what is left of that block, then try again"
        )
    first, last = marks
    after = lines[last + 1 :]
    told = [line.strip() for line in after if line.strip() and not line.strip().startswith("#")]
    # Our block ended whatever filter stood before it; what follows it must not fall under that.
    bridge = ["[all]" + lines[first][len(lines[first].rstrip()) :]] if told else []
    if told and _FILTER.fullmatch(told[0]) and told[0] == "[all]":
        bridge = []
    return "\n".join([*lines[:first], *bridge, *after])

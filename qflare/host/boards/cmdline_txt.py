"""cmdline.txt of a Raspberry Pi: one line of words for the kernel, and it stays one line. Pure."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from qflare.faults import LocalFault

# A quote may stand anywhere in a word and protects spaces (the kernel's next_arg).
_WORD: Final = re.compile(r'(?:[^\s"]|"[^"]*")+')


def words(text: str) -> list[str]:
    """The words of the line; LocalFault unless it is exactly one that says something."""
    line = _line(text)
    return _WORD.findall(line)


def edit(
    text: str,
    last: Sequence[str] = (),
    remove: Sequence[str] = (),
    first: Sequence[str] = (),
) -> str:
    """The line with the words `first` and `last` at its ends and without what `remove` matches.

    Words that are there already stay where they are, and nothing else moves. Editing twice is
    editing once. LocalFault for a file of no line or of several: the firmware reads but one.
    """
    line = _line(text)
    ending = text[len(text.rstrip("\r\n")) :]
    gone = [m for m in _WORD.finditer(line) if any(fnmatchcase(m[0], p) for p in remove)]
    for match in reversed(gone):
        start, end = match.span()
        # The space behind goes with the word; of the last one, the space before.
        while end < len(line) and line[end].isspace():
            end += 1
        if end == len(line):
            while start and line[start - 1].isspace():
                start -= 1
        line = line[:start] + line[end:]
    there = set(_WORD.findall(line))
    line = " ".join([*(w for w in first if w not in there), *([line] if line.strip() else [])])
    added = [word for word in last if word not in there]
    if added:
        line = " ".join([line.rstrip(), *added]).lstrip() if line else " ".join(added)
    return line + ending


def _line(text: str) -> str:
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    if len(lines) != 1:
        raise LocalFault(
            f"cmdline.txt has {len(lines)} lines, of which the firmware reads the first; "
            + ("make them one" if lines else "write it anew from the system's image")
        )
    if text.rstrip("\r\n") != lines[0] or "\0" in text:
        raise LocalFault("cmdline.txt begins with an empty line or has a NUL; make it one line")
    if text.count('"') % 2:
        raise LocalFault("cmdline.txt has a quote that never ends; correct it")
    return lines[0]

"""The technician's page shows what the tool says, and every option it names is there."""

import argparse
import re
from pathlib import Path

from edge_runtime.provision import command, daemon
from edge_runtime.provision.problems import _TEXT, Code

PAGE = (Path(__file__).parents[2] / "docs/technician.md").read_text()


def _options(parser: argparse.ArgumentParser) -> set[str]:
    found = {o for action in parser._actions for o in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found |= _options(child)
    return found


def test_its_options_exist() -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    shown = " ".join(re.findall(r"qflare provision [^`]*?(?:\n|`)", PAGE))
    named = set(re.findall(r"(?<!\w)--[a-z-]+", shown))
    assert {"--ticket", "--wifi-password-file", "--boot", "--out", "--enrolled"} <= named
    assert named - {"--json"} <= _options(parser)


def test_what_it_says_of_problems_is_said() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)[1:]
    said = " ".join(_TEXT.values()) + Path(daemon.__file__).read_text()
    for row in rows:
        for word in row.split("…"):
            assert word.strip() in said, row
    assert len(rows) >= 10


def test_every_problem_says_what_to_do() -> None:
    assert set(_TEXT) == set(Code)
    for text in _TEXT.values():
        assert ";" in text or ":" in text

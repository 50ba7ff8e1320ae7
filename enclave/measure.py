"""Which files are the trusted computing base, how long they are, and what they measure.

`python -m enclave.measure` prints it; `make tcb` runs that. The list is computed: everything in
`enclave/`, and every module of `qflare` that can be reached from there by import statements. What
CPython, numpy and cryptography are made of is not measured here.
"""

import argparse
import ast
import io
import json
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qflare.names import Digest

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 3_500  # code lines: neither blank, nor comment, nor docstring


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One measured file; its name is its path from the root of the packages."""

    name: str
    lines: int  # all
    code_lines: int  # that are neither blank nor comment nor docstring
    digest: Digest


@dataclass(frozen=True, slots=True)
class Tcb:
    """The trusted computing base and its measurement."""

    files: tuple[SourceFile, ...]
    measurement: Digest

    @property
    def code_lines(self) -> int:
        """Code lines in all files together."""
        return sum(file.code_lines for file in self.files)


def measure(root: Path = ROOT) -> Tcb:
    """Read the sources below `root`; the same files give the same measurement on every machine."""
    files = tuple(_read(root, path) for path in sorted(_closure(root)))
    listing = b"".join(f"{file.digest}  {file.name}\n".encode() for file in files)
    return Tcb(files, Digest.of(b"qflare/1/tcb\0", listing))


def _closure(root: Path) -> set[Path]:
    waiting = [path.relative_to(root) for path in (root / "enclave").rglob("*.py")]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            for name in _imports(ast.parse((root / path).read_bytes())):
                waiting += _files_of(root, name)
    return found


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files_of(root: Path, name: str) -> Iterator[Path]:
    """The files that `import name` runs, if they are ours: the packages above, then itself."""
    parts = name.split(".")
    if parts[0] not in ("qflare", "enclave"):
        return
    for depth in range(1, len(parts) + 1):
        base = Path(*parts[:depth])
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if (root / path).is_file():
                yield path


def _read(root: Path, path: Path) -> SourceFile:
    data = (root / path).read_bytes()
    return SourceFile(path.as_posix(), data.count(b"\n"), _code_lines(data), Digest.of(data))


def _code_lines(data: bytes) -> int:
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    silent |= {tokenize.ENCODING, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.tokenize(io.BytesIO(data).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the measurement, and the files if asked; exit 1 above LINES_MAX code lines."""
    parser = argparse.ArgumentParser(prog="python -m enclave.measure", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--lines", action="store_true", help="print every file")
    options = parser.parse_args(arguments)
    tcb = measure()
    if options.json:
        files = {f.name: {"digest": str(f.digest), "code_lines": f.code_lines} for f in tcb.files}
        out = {"measurement": str(tcb.measurement), "code_lines": tcb.code_lines, "files": files}
        sys.stdout.write(json.dumps(out) + "\n")
    else:
        for file in tcb.files if options.lines else ():
            sys.stdout.write(f"{file.code_lines:5} {file.lines:5}  {file.name}\n")
        total = sum(file.lines for file in tcb.files)
        sys.stdout.write(
            f"{len(tcb.files)} files, {tcb.code_lines} code lines of {total} "
            f"(at most {LINES_MAX})\nmeasurement {tcb.measurement}\n"
        )
    return int(tcb.code_lines > LINES_MAX)


if __name__ == "__main__":
    raise SystemExit(main())

"""Correctness alone, for a machine that is too slow or too emulated to be timed.

Each model file is trained for 50 steps, and its losses are compared with those that another
machine recorded (`"recorded"` in its JSON, by the file's digest).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks.training import golden_run
from benchmarks.training.targets import largest_difference
from qflare.faults import LocalFault, PeerFault
from qflare.host.model import ModelFile
from qflare.host.model.file import read_model_file

TOLERANCE: Final = 1e-4


def zoo_models() -> list[ModelFile]:
    """Every model that comes with QFLARE."""
    from qflare import zoo

    return [zoo.load(name) for name in zoo.MODELS]


def record(models: Iterable[ModelFile]) -> dict[str, Any]:
    """What `compare` on another machine wants, by digest."""
    return {
        str(model.digest): {"name": model.manifest.name, "losses": golden_run.losses(model)}
        for model in models
    }


def compare(files: list[Path], recorded: Path) -> tuple[list[dict[str, Any]], bool]:
    """One row a model: its self test, and the largest difference in loss; whether all is well."""
    known = json.loads(recorded.read_text())["recorded"]
    models = [read_model_file(path) for path in files] if files else zoo_models()
    rows = [_row(model, known.get(str(model.digest))) for model in models]
    return rows, all(row["ok"] for row in rows)


def _row(model: ModelFile, known: dict[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": model.manifest.name, "digest": str(model.digest)[:12]}
    row["self_test"] = self_test(model)
    if known is None:
        return row | {"difference": None, "ok": False, "why": "nothing is recorded of this file"}
    found = golden_run.losses(model)
    difference = largest_difference(found, known["losses"])
    good = difference <= TOLERANCE and row["self_test"] == "ok"
    return row | {"difference": difference, "last_loss": found[-1], "ok": good}


def self_test(model: ModelFile) -> str:
    """`ok`, or what the golden self test says."""
    from benchmarks.training.device import open_trainer

    try:
        open_trainer(model).self_test()
    except (LocalFault, PeerFault) as fault:
        return str(fault)
    return "ok"


def table(rows: list[dict[str, Any]]) -> str:
    """For people."""
    lines = [f"{'model':<20}{'file':<14}{'self test':<11}{'largest difference in loss':>28}"]
    for row in rows:
        difference = "-" if row["difference"] is None else f"{row['difference']:.1e}"
        verdict = "ok" if row["ok"] else f"WRONG: {row.get('why', row['self_test'])}"
        shown = "ok" if row["self_test"] == "ok" else "failed"
        lines.append(f"{row['name']:<20}{row['digest']:<14}{shown:<11}{difference:>28}  {verdict}")
    lines.append(f"want <= {TOLERANCE:g} over {golden_run.STEPS} steps")
    return "\n".join(lines)

"""What `qflare model build` says of the file that it wrote."""

import math
import textwrap
from pathlib import Path
from typing import Any, Final

from qflare.host.model import ModelFile
from qflare.host.typed import tree_of

_COLUMNS: Final = 80
BATCH_NORM: Final = {
    "average": "training uses each batch's statistics; the moving ones are averaged over the "
    "fleet like weights. If devices' data differ much, try --batch-norm local",
    "local": "all its weights stay on each device (FedBN)",
    "frozen": "its moving statistics are those of the given model, for ever",
}


def summary(file: ModelFile, path: Path) -> dict[str, Any]:
    """Plain values, for JSON and for text."""
    manifest = file.manifest
    return {
        "file": str(path),
        "bytes": len(file.tflite),
        "sha256": str(file.digest),
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "loss": manifest.loss,
        "classes": manifest.classes,
        "input": {"shape": manifest.input.shape, "dtype": manifest.input.dtype},
        "output": manifest.output,
        "parameters": manifest.size,
        "personal": manifest.personal_size,
        "personal_layers": sorted({p.name.rpartition("/")[0] for p in manifest.personal}),
        "frozen": manifest.frozen,
        "batch": manifest.batch,
        "optimiser": tree_of(manifest.optimiser),
        "batch_norm": manifest.batch_norm,
        "private": manifest.private,
        "dropout_numbers": manifest.noise,
        "features": manifest.features,
        "golden": tree_of(manifest.golden),
    }


def describe(found: dict[str, Any], folder: Path | None) -> list[str]:
    """Lines of text; `folder` is that of the data, if it is known."""
    golden = found["golden"]
    rows = [
        ("parameters", f"{found['parameters']:,} that the fleet learns{_others(found)}"),
        ("size", f"{found['bytes']:,} bytes ({4 * _numbers(found):,} of them weights)"),
        ("input", f"{_shape(found['input']['shape'])} {found['input']['dtype']}"),
        ("output", _output(found)),
        ("training", f"{_optimiser(found)}, {found['loss']}, batches of {found['batch']}"),
    ]
    if found["personal_layers"]:
        rows.append(("personal", ", ".join(found["personal_layers"])))
    if found["batch_norm"] != "none":
        rows.append(("batch norm", f"{found['batch_norm']}: {BATCH_NORM[found['batch_norm']]}"))
    if found["features"]:
        rows.append(("features", f"{_shape(found['features'])}, computed once per example"))
    if found["dropout_numbers"]:
        rows.append(("dropout", f"{found['dropout_numbers']:,} random numbers per example"))
    if found["private"]:
        rows.append(("private", "each example's gradient is clipped; the owner sets the noise"))
    losses = golden["losses"]
    rows.append(
        (
            "self-test",
            f"{golden['steps']} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}, as Keras",
        )
    )
    data = f" --dataset {folder}" if folder else ""
    return [
        f"{found['file']}: {found['name']} version {found['version']}, {found['task']}",
        *(line for name, text in rows for line in _wrapped(name, text)),
        "next:",
        f"  qflare model check {found['file']}",
        f"  qflare simulate --model {found['file']}{data}",
    ]


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _COLUMNS,
        initial_indent=f"  {name:10}  ",
        subsequent_indent=" " * 14,
        break_on_hyphens=False,
    )


def _numbers(found: dict[str, Any]) -> int:
    return int(found["parameters"] + found["personal"] + found["frozen"])


def _others(found: dict[str, Any]) -> str:
    more = [f"{found[kind]:,} {kind}" for kind in ("personal", "frozen") if found[kind]]
    return f" ({' and '.join(more)} besides)" if more else ""


def _output(found: dict[str, Any]) -> str:
    names = found["classes"]
    if not names:
        return _shape(found["output"])
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"{math.prod(found['output'])} classes: {shown}"


def _optimiser(found: dict[str, Any]) -> str:
    optimiser = found["optimiser"]
    extra = f" {optimiser['momentum']:g}" if optimiser["name"] == "momentum" else ""
    return f"{optimiser['name']}{extra}"


def _shape(shape: list[int]) -> str:
    return " x ".join(map(str, shape))

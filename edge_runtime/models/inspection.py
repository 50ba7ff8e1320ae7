"""`qflare model inspect`: what is in a model file. Pure."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edge_runtime.models import facts, text
from edge_runtime.models.graph import Graph, Signature, Tensor, read_graph
from edge_runtime.signatures import wanted_signatures
from qflare.faults import PeerFault
from qflare.host.model import Manifest, parse_manifest
from qflare.host.model.file import MANIFEST_ENTRY
from qflare.host.typed import parse, tree_of

_SHOWN = 12  # rows of a table, unless everything is asked for


def read_manifest(graph: Graph, view: memoryview) -> Manifest | str:
    """The manifest, or why there is none."""
    if MANIFEST_ENTRY not in graph.metadata:
        return "none, so it wasn't made by: qflare model build"
    span = graph.buffers[graph.metadata[MANIFEST_ENTRY]]
    try:
        return parse_manifest(bytes(view[span.start : span.start + span.count]))
    except PeerFault as fault:
        return f"invalid: {fault.detail}"


def inspect(name: str, view: memoryview) -> dict[str, Any]:
    """All facts as plain values; PeerFault if the bytes are no TFLite model."""
    graph = read_graph(view)
    manifest = read_manifest(graph, view)
    return {
        "file": name,
        "bytes": graph.size,
        "sha256": hashlib.sha256(view).hexdigest(),
        "manifest": tree_of(manifest) if isinstance(manifest, Manifest) else None,
        "manifest_fault": None if isinstance(manifest, Manifest) else manifest,
        "parameters": _parameters(manifest) if isinstance(manifest, Manifest) else [],
        "variables": [
            {
                "name": v.name,
                "shape": list(v.initial.shape) if v.initial else None,
                "initialised": v.initial is not None,
            }
            for v in facts.variables(graph)
        ],
        "signatures": [_signature(graph, s) for s in _in_order(graph, manifest)]
        or [_nameless(graph)],
        "operators": [_use(use) for use in facts.operators(graph)],
        "sizes": asdict(facts.sizes(graph)),
        "metadata": {key: graph.buffers[i].count for key, i in graph.metadata.items()},
    }


def _parameters(manifest: Manifest) -> list[dict[str, Any]]:
    total = manifest.size + manifest.personal_size
    return [
        {
            "name": parameter.name,
            "shape": parameter.shape,
            "scalars": (scalars := math.prod(parameter.shape)),
            "share": scalars / total,
            "kind": kind,
        }
        for kind, listed in (("federated", manifest.parameters), ("personal", manifest.personal))
        for parameter in listed
    ]


def _in_order(graph: Graph, manifest: Manifest | str) -> list[Signature]:
    """The signatures, those of the contract first and in its order."""
    wanted = list(wanted_signatures(manifest)) if isinstance(manifest, Manifest) else []
    return sorted(
        graph.signatures,
        key=lambda s: (wanted.index(s.key) if s.key in wanted else len(wanted), s.key),
    )


def _signature(graph: Graph, signature: Signature) -> dict[str, Any]:
    return {
        "name": signature.key,
        "inputs": _named(signature.inputs),
        "outputs": _named(signature.outputs),
        **_cost(graph, signature.subgraph),
    }


def _nameless(graph: Graph) -> dict[str, Any]:
    """The first subgraph, which is what runs if there is no signature."""
    if not graph.subgraphs:
        return {"name": None, "inputs": [], "outputs": [], "operators": {}, "working_memory": None}
    first = graph.subgraphs[0]
    sides = [
        {first.tensors[i].name or f"tensor {i}": first.tensors[i] for i in side if i >= 0}
        for side in (first.inputs, first.outputs)
    ]
    return {
        "name": None,
        "inputs": _named(sides[0]),
        "outputs": _named(sides[1]),
        **_cost(graph, 0),
    }


def _cost(graph: Graph, subgraph: int) -> dict[str, Any]:
    memory = facts.working_memory(graph, subgraph)
    counted: Counter[str] = Counter()
    for use in facts.operators(graph, facts.reachable(graph, subgraph)):
        counted[use.code.name] += use.count
    return {
        "operators": dict(counted.most_common()),
        "working_memory": {
            "bytes": memory.bytes,
            "unknown_tensors": memory.unknown,
            "how": "computed from the tensors' lifetimes, without kernels' own scratch memory",
        },
    }


def _named(tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
        for name, tensor in sorted(tensors.items(), key=lambda item: _natural(item[0]))
    ]


def _natural(name: str) -> tuple[str, int]:
    """w2 before w10."""
    digits = name[len(name.rstrip("0123456789")) :]
    return name.removesuffix(digits), int(digits[:9] or 0)


def _use(use: facts.Use) -> dict[str, Any]:
    code = use.code
    return {"name": code.name, "version": code.version, "custom": code.custom, "count": use.count}


def describe(report: dict[str, Any], everything: bool = False) -> list[str]:
    """The report as lines for people."""
    limit = 10**9 if everything else _SHOWN
    lines = [report["file"], f"  {report['bytes']:,} bytes, SHA-256 {report['sha256'][:16]}…", ""]
    if report["manifest"]:
        lines += manifest_in_words(parse(Manifest, report["manifest"]))
        lines += ["", *_parameter_lines(report["parameters"], limit)]
    else:
        lines += text.words(f"manifest of QFLARE: {report['manifest_fault']}", 0)
        lines += _variable_lines(report["variables"], limit)
    lines += ["", "signatures"]
    for signature in report["signatures"]:
        lines += _signature_lines(signature, limit)
    lines += ["", "operators of each", *_operator_lines(report)]
    lines += ["", "bytes of the file", *_size_lines(report)]
    return lines


def manifest_in_words(manifest: Manifest) -> list[str]:
    """What the model is and how it learns, in sentences."""
    x, optimiser = manifest.input, manifest.optimiser
    what = f"{manifest.name}, version {manifest.version}: {_article(manifest.task)}"
    if manifest.classes:
        what += f" with {len(manifest.classes)} classes ({text.short(_list(manifest.classes), 60)})"
    rate = f" at {x.rate_hz:g} values a second" if x.rate_hz else ""
    channels = text.short(
        _list([f"{c} [{u}]" for c, u in zip(x.channels, x.units, strict=True)]), 70
    )
    settings = {
        "sgd": "",
        "momentum": f" of {optimiser.momentum:g}",
        "adam": f", beta {optimiser.beta1:g} and {optimiser.beta2:g}",
    }[optimiser.name]
    facts_ = [
        ("takes", f"{text.tensor(x.dtype, x.shape)}{rate}; channels {channels}"),
        ("gives", text.tensor("float32", manifest.output)),
        ("learns by", f"{optimiser.name}{settings}, batches of {manifest.batch}"),
        (
            "loss",
            manifest.loss.replace("_", " ") + (", classes weighted" * bool(manifest.class_weights)),
        ),
        ("parameters", _parameter_words(manifest)),
    ]
    if manifest.noise:
        facts_.append(("dropout", f"draws {manifest.noise:,} numbers an example"))
    if manifest.batch_norm != "none":
        facts_.append(("batch norm", manifest.batch_norm))
    if manifest.private:
        facts_.append(("private", "each example's gradient can be clipped and blurred"))
    if manifest.features:
        kept = text.tensor("float32", manifest.features)
        facts_.append(("features", f"of the frozen part are kept: {kept} an example"))
    facts_ += [("licence", manifest.licence)]
    facts_ += [("from", manifest.provenance)] if manifest.provenance else []
    facts_ += [("made by", manifest.made_by)] if manifest.made_by else []
    lines = text.words(what, 0, 2)
    for key, value in facts_:
        wrapped = text.words(value, 14) or [""]
        lines += [f"  {key:<12}{wrapped[0][14:]}", *wrapped[1:]]
    return lines


def _article(task: str) -> str:
    return ("an " if task[0] in "aeiou" else "a ") + task


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _parameter_words(manifest: Manifest) -> str:
    parts = [f"{manifest.size:,} federated"]
    if manifest.personal:
        parts.append(f"{manifest.personal_size:,} personal, which never leave the device")
    if manifest.frozen:
        parts.append(f"{manifest.frozen:,} frozen")
    return "; ".join(parts)


def _more(count: int, limit: int) -> list[str]:
    return [f"  … and {count - limit} more; --all shows them"] if count > limit else []


def _parameter_lines(parameters: list[dict[str, Any]], limit: int) -> list[str]:
    rows = [
        (
            p["name"],
            str(p["shape"]),
            f"{p['scalars']:,}",
            f"{p['share']:.1%}",
            "" if p["kind"] == "federated" else p["kind"],
        )
        for p in parameters[:limit]
    ]
    return ["parameters", *text.table(rows, right=(2, 3)), *_more(len(parameters), limit)]


def _variable_lines(variables: list[dict[str, Any]], limit: int) -> list[str]:
    if not variables:
        return ["variables: none, so nothing in it can be trained on a device"]
    rows = [
        (v["name"], str(v["shape"]) if v["initialised"] else "no initial value")
        for v in variables[:limit]
    ]
    return ["", "variables", *text.table(rows), *_more(len(variables), limit)]


def _signature_lines(signature: dict[str, Any], limit: int) -> list[str]:
    sides = [_side(signature[side], limit) for side in ("inputs", "outputs")]
    name = signature["name"] or "(no name)"
    return text.words(f"{name}({sides[0]}) -> {sides[1] or 'nothing'}", 2, 4)


def _side(tensors: list[dict[str, Any]], limit: int) -> str:
    shown = [f"{t['name']} {text.tensor(t['dtype'], t['shape'])}" for t in tensors[:limit]]
    return _list(shown) + (f", … {len(tensors) - limit} more" if len(tensors) > limit else "")


def _operator_lines(report: dict[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [("signature", "operators", "memory", "")]
    for signature in report["signatures"]:
        counted, memory = signature["operators"], signature["working_memory"]
        top = ", ".join(f"{n} {name}" for name, n in list(counted.items())[:3])
        said = text.size(memory["bytes"]) if memory else "-"
        if memory and memory["unknown_tensors"]:
            said = f"> {said}"
        rows.append(
            (
                signature["name"] or "(no name)",
                str(sum(counted.values())),
                said,
                text.short(top, 44),
            )
        )
    lines = text.table(rows, right=(1, 2))
    lines += text.words(
        "Memory is what computed tensors take at once, from their lifetimes in the file; kernels' "
        "own scratch memory comes on top, and `qflare model bench` measures the process."
    )
    custom = [use["name"] for use in report["operators"] if use["custom"]]
    if custom:
        lines += text.words(f"Not TFLite's own: {', '.join(custom)}; most devices can't run them.")
    return lines


def _size_lines(report: dict[str, Any]) -> list[str]:
    names = {
        "parameters": "initial values of parameters",
        "variables": "initial values of other variables",
        "constants": "constants",
        "metadata": "manifest and other metadata",
        "unused": "that nothing refers to",
        "graph": "graph: operators, tensors, names",
    }
    rows = [
        (names[kind], f"{count:,}", f"{count / max(report['bytes'], 1):.0%}")
        for kind, count in report["sizes"].items()
        if count
    ]
    return text.table(rows, right=(1, 2))

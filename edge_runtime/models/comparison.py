"""`qflare model diff`: what two model files have in common. Pure."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_runtime.models import facts, text
from edge_runtime.models.graph import Graph, Signature, read_graph
from edge_runtime.models.inspection import read_manifest
from qflare.host.model import Manifest
from qflare.host.model.manifest import Parameter
from qflare.host.typed import tree_of

_MEANING = {
    "input.channels": "the input's channels",
    "input.units": "the input's units",
    "input.mean": "the input's mean",
    "input.scale": "the input's scale",
    "input.rate_hz": "the input's rate",
    "classes": "the classes, or their order,",
    "loss": "the loss",
}


@dataclass(frozen=True, slots=True)
class _Side:
    graph: Graph
    manifest: Manifest | str
    view: memoryview

    def values(self, key: str) -> Any:
        """float32 initial values of the parameter whose metadata has this key; None if missing."""
        index = self.graph.metadata.get(f"qflare-{key}")
        if index is None:
            return None
        span = self.graph.buffers[index]
        if span.count % 4:
            return None
        return np.frombuffer(self.view, "<f4", span.count // 4, span.start)


def compare(names: tuple[str, str], views: tuple[memoryview, memoryview]) -> dict[str, Any]:
    """All differences as plain values; PeerFault if one is no TFLite model."""
    a, b = (
        _Side(graph, read_manifest(graph, view), view)
        for graph, view in ((read_graph(view), view) for view in views)
    )
    both = isinstance(a.manifest, Manifest) and isinstance(b.manifest, Manifest)
    return {
        "a": names[0],
        "b": names[1],
        "identical": views[0] == views[1],
        "manifest": _manifest(a.manifest, b.manifest),
        "parameters": _parameters(a, b) if both else [],
        "operators": _operators(a.graph, b.graph),
        "signatures": _signatures(a.graph, b.graph),
        "sizes": [
            {"kind": kind, "a": size, "b": asdict(facts.sizes(b.graph))[kind]}
            for kind, size in asdict(facts.sizes(a.graph)).items()
        ],
        "bytes": {"a": a.graph.size, "b": b.graph.size},
        "keeps_weights": _keeps(a.manifest, b.manifest),
    }


def _manifest(a: Manifest | str, b: Manifest | str) -> list[dict[str, Any]]:
    """Fields that differ, by their dotted name; parameters are compared by themselves."""
    flat = []
    for manifest in (a, b):
        if isinstance(manifest, str):
            flat.append({"manifest": manifest})
        else:
            rest = tree_of(manifest)
            del rest["parameters"], rest["personal"]
            flat.append(_flat("", rest))
    return [
        {"field": field, "a": flat[0].get(field), "b": flat[1].get(field)}
        for field in {**flat[0], **flat[1]}
        if flat[0].get(field) != flat[1].get(field)
    ]


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(f"{prefix}.{key}" if prefix else key, inner)
    return found


def _listed(manifest: Manifest | str) -> dict[str, tuple[str, str, Parameter]]:
    """Parameters by name: their kind, and the key of their values."""
    if isinstance(manifest, str):
        return {}
    return {
        parameter.name: (kind, f"{kind[0].replace('f', 'w')}{i}", parameter)
        for kind, listed in (("federated", manifest.parameters), ("personal", manifest.personal))
        for i, parameter in enumerate(listed)
    }


def _parameters(a: _Side, b: _Side) -> list[dict[str, Any]]:
    """Every parameter of either: what became of it, and how far its initial values moved."""
    left, right = _listed(a.manifest), _listed(b.manifest)
    found = []
    for name in {**left, **right}:
        entry: dict[str, Any] = {"name": name, "change": None, "max_difference": None}
        if name not in right:
            entry |= {"change": "removed", "a": left[name][2].shape, "b": None}
        elif name not in left:
            entry |= {"change": "added", "a": None, "b": right[name][2].shape}
        else:
            (kind_a, key_a, p_a), (kind_b, key_b, p_b) = left[name], right[name]
            entry |= {"a": p_a.shape, "b": p_b.shape}
            if p_a.shape != p_b.shape:
                entry["change"] = "shape"
            elif kind_a != kind_b:
                entry["change"] = f"{kind_a} to {kind_b}"
            else:
                entry["max_difference"] = _distance(a.values(key_a), b.values(key_b))
        found.append(entry)
    return found


def _distance(a: Any, b: Any) -> float | None:
    """The largest difference of two values; None if it can't be said."""
    if a is None or b is None or len(a) != len(b):
        return None
    if a.tobytes() == b.tobytes():
        return 0.0
    with np.errstate(all="ignore"):
        largest = float(np.abs(a.astype(np.float64) - b).max(initial=0.0))
    return largest if np.isfinite(largest) else None


def _operators(a: Graph, b: Graph) -> list[dict[str, Any]]:
    counts: dict[tuple[str, int], list[int]] = {}
    for i, graph in enumerate((a, b)):
        for use in facts.operators(graph):
            counts.setdefault((use.code.name, use.code.version), [0, 0])[i] += use.count
    return [
        {"name": name, "version": version, "a": left, "b": right}
        for (name, version), (left, right) in sorted(counts.items())
        if left != right
    ]


def _signatures(a: Graph, b: Graph) -> list[dict[str, Any]]:
    left, right = ({s.key: s for s in graph.signatures} for graph in (a, b))
    found: list[dict[str, Any]] = []
    for key in {**left, **right}:
        if key not in right or key not in left:
            change = "removed" if key in left else "added"
            found.append({"name": key, "change": change, "tensors": []})
        elif tensors := _tensors(left[key], right[key]):
            found.append({"name": key, "change": "changed", "tensors": tensors})
    return found


def _tensors(a: Signature, b: Signature) -> list[dict[str, Any]]:
    found = []
    for side, left, right in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        shown = [
            {name: text.tensor(t.dtype, t.shape) for name, t in tensors.items()}
            for tensors in (left, right)
        ]
        found += [
            {"side": side, "name": name, "a": shown[0].get(name), "b": shown[1].get(name)}
            for name in {**shown[0], **shown[1]}
            if shown[0].get(name) != shown[1].get(name)
        ]
    return found


def _keeps(a: Manifest | str, b: Manifest | str) -> dict[str, Any]:
    """Whether what a fleet learned with `a` can be trained further with `b`.

    The weights of a fleet are one flat vector in the manifest's order, so that order and every
    shape must be the same. The rest decides what that would mean.
    """
    if isinstance(a, str) or isinstance(b, str):
        return {"verdict": "unknown", "why": ["one of the files has no manifest"]}
    left, right = ([(p.name, p.shape) for p in m.parameters] for m in (a, b))
    why = []
    if [shape for _, shape in left] != [shape for _, shape in right]:
        same = sorted(map(str, left)) == sorted(map(str, right))
        why.append(
            "the federated parameters are the same, but in another order"
            if same
            else "the federated parameters have other shapes, or there are more or fewer"
        )
    elif sorted(name for name, _ in left) == sorted(name for name, _ in right) and left != right:
        why.append("the federated parameters are the same, but in another order")
    if a.task != b.task or a.output != b.output:
        why.append("the task or the output is another")
    if a.input.shape != b.input.shape:
        why.append("the input has another shape")
    if why:
        return {"verdict": "no", "why": why}
    if left != right:
        why.append("parameters have other names; make sure that they are the same layers")
    if [(p.name, p.shape) for p in a.personal] != [(p.name, p.shape) for p in b.personal]:
        why.append("the personal parameters differ: each device starts its own anew")
    flat = [_flat("", tree_of(m)) for m in (a, b)]
    changed = [what for field, what in _MEANING.items() if flat[0][field] != flat[1][field]]
    why += [f"{what} changed: the weights meant something else before" for what in changed]
    return {"verdict": "with care" if why else "yes", "why": why}


def describe(report: dict[str, Any]) -> list[str]:
    """The report as lines for people."""
    lines = [f"a  {report['a']}", f"b  {report['b']}", ""]
    if report["identical"]:
        return [*lines, "The files are the same, byte for byte."]
    same = ["  the same"]
    for title, part in (
        ("manifest", _manifest_lines(report["manifest"]) or same),
        ("parameters", _parameter_lines(report["parameters"], same)),
        ("signatures", _signature_lines(report["signatures"]) or same),
        ("operators, how many of each", _operator_lines(report["operators"]) or same),
        ("bytes", _size_lines(report)),
    ):
        lines += [title, *part, ""]
    keeps = report["keeps_weights"]
    lines.append(f"could a fleet move from a to b and keep its weights: {keeps['verdict']}")
    for reason in keeps["why"]:
        lines += text.words(f"- {reason}", 2, 2)
    return lines


def _manifest_lines(changes: list[dict[str, Any]]) -> list[str]:
    lines = []
    for change in changes:
        if change["field"].startswith("golden."):
            continue
        shown = [str(change[side]) for side in ("a", "b")]
        if len(change["field"]) + sum(map(len, shown)) < text.WIDTH - 10:
            lines.append(f"  {change['field']}: {shown[0]} -> {shown[1]}")
        else:
            lines += [f"  {change['field']}:"]
            lines += [
                f"    {side}  {text.short(v, 70)}" for side, v in zip("ab", shown, strict=True)
            ]
    if any(change["field"].startswith("golden.") for change in changes):
        lines.append("  golden: the self-test differs")
    return lines


def _parameter_lines(parameters: list[dict[str, Any]], same: list[str]) -> list[str]:
    if not parameters:
        return ["  not compared: that takes two manifests"]
    rows = []
    for p in parameters:
        if p["change"] in ("added", "removed"):
            rows.append((p["name"], str(p["a"] or p["b"]), p["change"]))
        elif p["change"]:
            shapes = f"{p['a']} -> {p['b']}" if p["change"] == "shape" else str(p["a"])
            rows.append((p["name"], shapes, p["change"]))
        elif p["max_difference"] is None:
            rows.append((p["name"], str(p["a"]), "initial values can't be compared"))
        elif p["max_difference"]:
            rows.append(
                (p["name"], str(p["a"]), f"initial values differ by {p['max_difference']:.3g}")
            )
    return text.table(rows) or same


def _signature_lines(signatures: list[dict[str, Any]]) -> list[str]:
    lines = []
    for signature in signatures:
        lines.append(f"  {signature['name']}: {signature['change']}")
        for t in signature["tensors"]:
            change = f"{t['a'] or 'not there'} -> {t['b'] or 'not there'}"
            lines += text.words(f"{t['side']} {t['name']}: {change}", 4, 2)
    return lines


def _operator_lines(operators: list[dict[str, Any]]) -> list[str]:
    rows = [(f"{o['name']} {o['version']}", str(o["a"]), "->", str(o["b"])) for o in operators]
    return text.table(rows, right=(1, 3))


def _size_lines(report: dict[str, Any]) -> list[str]:
    rows = [
        (s["kind"], f"{s['a']:,}", "->", f"{s['b']:,}") for s in report["sizes"] if s["a"] != s["b"]
    ]
    whole = report["bytes"]
    rows.append(("the file", f"{whole['a']:,}", "->", f"{whole['b']:,}"))
    return text.table(rows, right=(1, 3))

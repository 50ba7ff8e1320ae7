"""What follows from a graph: its variables, sizes, operators, and memory while it runs. Pure."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

from edge_runtime.models.graph import Code, Graph, Subgraph, Tensor

_ALIGNMENT: Final = 64  # TFLite begins each tensor at a multiple of it
_WEIGHT: Final = re.compile(r"qflare-[wp]\d+")


@dataclass(frozen=True, slots=True)
class Variable:
    """A resource variable. `initial` is what the graph starts it from, None if nothing does."""

    name: str
    initial: Tensor | None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the file by what they are."""

    parameters: int  # initial values that the metadata names
    variables: int  # other initial values: of an optimiser's state, or in a file made elsewhere
    constants: int
    metadata: int
    unused: int  # buffers that nothing refers to
    graph: int  # the rest: operators, tensors, names, padding


@dataclass(frozen=True, slots=True)
class Use:
    """An operator in one version, and how often the file has it."""

    code: Code
    count: int


@dataclass(frozen=True, slots=True)
class WorkingMemory:
    """Bytes that a subgraph's computed tensors take at once, by when they are needed.

    It is computed from the file: what the interpreter's own plan and its kernels' scratch memory
    take is known only when it runs. `unknown` tensors have no fixed size, and aren't in it.
    """

    bytes: int
    unknown: int


def variables(graph: Graph) -> tuple[Variable, ...]:
    """Every resource variable of the file, by name."""
    started = {
        called
        for subgraph in graph.subgraphs
        for operator in subgraph.operators
        if operator.code.name == "CALL_ONCE"
        for called in operator.calls
    }
    initial: dict[str, Tensor] = {}
    for index in sorted(started):
        initial |= _assigned(graph.subgraphs[index])
    names = {
        operator.variable
        for subgraph in graph.subgraphs
        for operator in subgraph.operators
        if operator.variable is not None
    }
    return tuple(Variable(name, initial.get(name)) for name in sorted(names))


def _assigned(subgraph: Subgraph) -> dict[str, Tensor]:
    handles: dict[int, str] = {}
    found: dict[str, Tensor] = {}
    for operator in subgraph.operators:
        if operator.variable is not None:
            handles |= dict.fromkeys(operator.outputs, operator.variable)
        elif operator.code.name == "ASSIGN_VARIABLE" and len(operator.inputs) == 2:
            handle, value = operator.inputs
            if handle in handles and value >= 0:
                found[handles[handle]] = subgraph.tensors[value]
    return found


def sizes(graph: Graph) -> Sizes:
    """Where the file's bytes go; a buffer with two uses counts once."""
    kinds = {t.buffer: "constants" for s in graph.subgraphs for t in s.tensors}
    kinds |= dict.fromkeys(graph.metadata.values(), "metadata")
    kinds |= {v.initial.buffer: "variables" for v in variables(graph) if v.initial}
    kinds |= {i: "parameters" for name, i in graph.metadata.items() if _WEIGHT.fullmatch(name)}
    found: Counter[str] = Counter()
    seen = set()
    for i, span in enumerate(graph.buffers):
        if span.count and span.start not in seen:
            seen.add(span.start)
            found[kinds.get(i, "unused")] += span.count
    return Sizes(
        parameters=found["parameters"],
        variables=found["variables"],
        constants=found["constants"],
        metadata=found["metadata"],
        unused=found["unused"],
        graph=max(graph.size - found.total(), 0),
    )


def reachable(graph: Graph, subgraph: int) -> tuple[int, ...]:
    """A subgraph, and those that it runs each time (not those that run once, at the start)."""
    found, waiting = {subgraph}, [subgraph]
    while waiting:
        for operator in graph.subgraphs[waiting.pop()].operators:
            if operator.code.name != "CALL_ONCE":
                new = set(operator.calls) - found
                found |= new
                waiting += new
    return tuple(sorted(found))


def operators(graph: Graph, subgraphs: tuple[int, ...] | None = None) -> tuple[Use, ...]:
    """The operators of these subgraphs, else of all, the commonest first."""
    chosen = range(len(graph.subgraphs)) if subgraphs is None else subgraphs
    counted = Counter(o.code for i in chosen for o in graph.subgraphs[i].operators)
    uses = [Use(code, count) for code, count in counted.items()]
    return tuple(sorted(uses, key=lambda use: (-use.count, use.code.name, use.code.version)))


def working_memory(graph: Graph, subgraph: int) -> WorkingMemory:
    """What one run of a subgraph takes, with those that it runs."""
    parts = [_working_memory(graph.subgraphs[i]) for i in reachable(graph, subgraph)]
    return WorkingMemory(sum(p.bytes for p in parts), sum(p.unknown for p in parts))


def _working_memory(subgraph: Subgraph) -> WorkingMemory:
    steps = len(subgraph.operators)
    born: dict[int, int] = dict.fromkeys(subgraph.inputs, 0)
    last: dict[int, int] = dict.fromkeys(subgraph.inputs, steps)  # inputs are kept to the end
    for step, operator in enumerate(subgraph.operators):
        for tensor in operator.outputs:
            born.setdefault(tensor, step)
        for tensor in (*operator.inputs, *operator.outputs):
            last[tensor] = max(last.get(tensor, 0), step)
    last |= dict.fromkeys(subgraph.outputs, steps)
    change = [0] * (steps + 2)
    unknown = 0
    for tensor, step in born.items():
        if tensor < 0 or subgraph.tensors[tensor].dtype == "resource":
            continue
        size = subgraph.tensors[tensor].size
        if size is None:
            unknown += 1
            continue
        aligned = -(-size // _ALIGNMENT) * _ALIGNMENT
        change[step] += aligned
        change[last[tensor] + 1] -= aligned
    live = peak = 0
    for step in range(steps + 1):
        live += change[step]
        peak = max(peak, live)
    return WorkingMemory(peak, unknown)


def missing_kernels(graph: Graph, newest: dict[str, int]) -> tuple[Use, ...]:
    """Builtin operators in a version newer than an interpreter has."""
    return tuple(
        use
        for use in operators(graph)
        if not use.code.custom and use.code.version > newest.get(use.code.name, 0)
    )

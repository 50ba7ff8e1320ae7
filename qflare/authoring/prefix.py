"""The frozen prefix: what is the same for an example in every epoch, and is computed once."""

from collections.abc import Callable

from qflare.authoring.graph import Call, Graph


def frozen_prefix(
    graph: Graph, still: Callable[[Call], bool], frozen: Callable[[Call], bool]
) -> tuple[tuple[int, ...], int] | None:
    """The calls (by index) before the last tensor that separates frozen from trained, and its slot.

    `still` says whether a call gives the same output for the same input in every epoch, `frozen`
    whether it has frozen weights. None if there is nothing worth it.
    """
    by_output = {call.output: i for i, call in enumerate(graph.calls)}
    best: tuple[frozenset[int], int] | None = None
    before: list[frozenset[int]] = []  # what each call depends on, itself included
    for i, call in enumerate(graph.calls):
        sources = [before[by_output[slot]] for slot in call.inputs if slot]
        inner = frozenset({i}).union(*sources)
        before.append(inner)
        if not all(still(graph.calls[j]) for j in inner) or call.output == graph.output:
            continue
        if not any(frozen(graph.calls[j]) for j in inner):
            continue
        hidden = {0} | {graph.calls[j].output for j in inner} - {call.output}
        after = [c for j, c in enumerate(graph.calls) if j not in inner]
        separates = not any(hidden & set(c.inputs) for c in after)
        if separates and (best is None or len(inner) > len(best[0])):
            best = inner, call.output
    return None if best is None else (tuple(sorted(best[0])), best[1])

"""What a receipt's tallies say: how good models were before local training, and after. Pure."""

from typing import Any

from qflare.tallies import LOSS_BITS, Tallies

_DIGITS = 6  # tallies of 1,024 classes have to fit into one message


def figures(tallies: Tallies) -> dict[str, Any] | None:
    """One JSON object about all validation examples of a round; None if there were none.

    `before` is the model that the round started from, `after` are the devices' own, each on its own
    examples. A class without examples has no recall (null). Where a task has no classes, examples
    are never right, and only the mean losses mean anything.
    """
    counts, losses = tallies[:-2], tallies[-2:]
    examples = counts[::3]
    total = sum(examples)
    if not total:
        return None
    out: dict[str, Any] = {"examples": total, "class_examples": list(examples)}
    for when, right, loss in zip(
        ("before", "after"), (counts[1::3], counts[2::3]), losses, strict=True
    ):
        recalls = (k / n if n else None for k, n in zip(right, examples, strict=True))
        out[f"accuracy_{when}"] = round(sum(right) / total, _DIGITS)
        out[f"recall_{when}"] = [None if r is None else round(r, _DIGITS) for r in recalls]
        out[f"loss_{when}"] = round(loss / 2**LOSS_BITS / total, _DIGITS)
    return out

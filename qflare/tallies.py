"""Tallies: how well models do on the devices' own validation parts, as counts that can be added.

One flat tuple of 3 · classes + 2 whole numbers: for each class its examples, how many of them the
model that the round started from gets right, and how many the locally trained one; then the sums of
the two models' losses over all examples, in units of 2^-LOSS_BITS. Sums of tallies are tallies, so
a cohort's can be known without any device's.
"""

from qflare.faults import PeerFault, Reason
from qflare.record import check

CLASSES_MAX = 1024  # rows; a task without classes has one
LOSS_BITS = 10
LOSS_MAX = 2**20  # of one example, in units: a loss of 1,024

Tallies = tuple[int, ...]


def length(classes: int) -> int:
    """How many numbers the tallies of so many classes are."""
    return 3 * classes + 2


def zeros(classes: int) -> Tallies:
    """The tallies of no examples."""
    return (0,) * length(classes)


def classes_of(tallies: Tallies) -> int:
    """How many classes these are for; raise PeerFault(BAD_TALLIES) if for no number of them."""
    classes, rest = divmod(len(tallies) - 2, 3)
    check(not rest and 1 <= classes <= CLASSES_MAX, f"{len(tallies)} tallies", Reason.BAD_TALLIES)
    return classes


def verify(tallies: Tallies, classes: int, examples_max: int) -> None:
    """Raise PeerFault(BAD_TALLIES) unless these can be of `examples_max` examples or fewer."""
    if len(tallies) != length(classes):
        detail = f"{len(tallies)} tallies, want {length(classes)}"
        raise PeerFault(Reason.BAD_TALLIES, detail)
    counts, losses = tallies[:-2], tallies[-2:]
    examples = counts[::3]
    for seen, before, after in zip(examples, counts[1::3], counts[2::3], strict=True):
        right = 0 <= before <= seen and 0 <= after <= seen
        check(right, "more examples right than there are", Reason.BAD_TALLIES)
    total = sum(examples)
    check(total <= examples_max, f"{total} examples, at most {examples_max}", Reason.BAD_TALLIES)
    bounded = all(0 <= loss <= total * LOSS_MAX for loss in losses)
    check(bounded, f"a loss outside 0…{LOSS_MAX} an example", Reason.BAD_TALLIES)


def add(left: Tallies, right: Tallies) -> Tallies:
    """The tallies of both; exact, as Python's whole numbers are."""
    return tuple(a + b for a, b in zip(left, right, strict=True))


def spelled_max(classes: int) -> int:
    """The most bytes that one device's tallies take on the wire: policies cap counts at 2^20."""
    return 3 + 5 * 3 * classes + 9 * 2
